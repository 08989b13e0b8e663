"""Golden values of losses, distances and similarities from PyTorch and torchvision: python tests/golden/gen_losses.py writes tests/golden/losses.safetensors.

The format is that of gen_norm_attention.py: `case.in.NAME`, `case.out.y`, `case.grad.NAME` for the gradient of sum(y * cot) with the cotangent `case.cot.y`. Inputs are
rounded to f32 first; all is computed in f64. tests/all/golden_losses.rs makes the same calls under the same names; a name's last part is the reduction.
"""

import os
import sys

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file

torch.manual_seed(11)
found = {}
inf, nan = torch.inf, torch.nan


def case(name, f, diff, **inputs):
    args = {}
    for key, t in inputs.items():
        if t.is_floating_point():
            t = t.float().double()
            if key in diff:
                t.requires_grad_()
        args[key] = t
    y = f(**args)
    cot = torch.randn(y.shape).float().double()
    y.backward(cot)
    found[f"{name}.cot.y"] = cot
    found[f"{name}.out.y"] = y.detach()
    for key, t in args.items():
        found[f"{name}.in.{key}"] = t.detach()
        if key in diff:
            found[f"{name}.grad.{key}"] = t.grad


def each(name, f, diff, reductions=("mean", "sum", "none"), **inputs):
    for reduction in reductions:
        case(f"{name}_{reduction}", lambda **a: f(reduction=reduction, **a), diff, **inputs)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def rand(*shape):
    return torch.rand(*shape, dtype=torch.float64)


def numbers(*v):
    return torch.tensor(v, dtype=torch.float64)


def signs(*shape):
    return torch.randint(0, 2, shape).double() * 2 - 1


none = ("none",)
x, t = {"x": 2 * randn(3, 4)}, {"t": 2 * randn(3, 4)}
call = lambda f, **o: lambda x, t, reduction: f(x, t, reduction=reduction, **o)

# Real targets. Ties, kinks and infinities stand in cases of their own.
ties = {"x": numbers(1, 2, 0, -1, inf, -inf, 3), "t": numbers(1, 1, 1, 1, 1, 1, 1)}
for name, f, options in [
    ("mse", F.mse_loss, {}),
    ("l1", F.l1_loss, {}),
    ("smooth_l1", F.smooth_l1_loss, {}),
    ("smooth_l1_beta", F.smooth_l1_loss, {"beta": 0.5}),
    ("smooth_l1_zero", F.smooth_l1_loss, {"beta": 0.0}),
    ("huber", F.huber_loss, {}),
    ("huber_delta", F.huber_loss, {"delta": 1.5}),
]:
    each(name, call(f, **options), ["x", "t"], ("mean", "sum", "none") if not options else none, **x, **t)
    each(f"{name}_ties", call(f, **options), ["x", "t"], none, **ties)

counts = {"t": torch.randint(0, 5, (3, 4)).double()}
each("poisson", call(F.poisson_nll_loss), ["x"], **x, **counts)
each("poisson_full", call(F.poisson_nll_loss, full=True), ["x"], **x, **counts)
each("poisson_rate", call(F.poisson_nll_loss, log_input=False, full=True, eps=1e-3), ["x"], none, x=3 * rand(3, 4), **counts)
gaussian = lambda **o: lambda x, t, v, reduction: F.gaussian_nll_loss(x, t, v, reduction=reduction, **o)
each("gaussian", gaussian(), ["x", "t", "v"], **x, **t, v=rand(3, 4) + 0.1)
each("gaussian_full", gaussian(full=True, eps=0.3), ["x", "v"], none, **x, **t, v=rand(3, 4))
each("gaussian_rows", gaussian(), ["x", "v"], none, **x, **t, v=rand(3) + 0.2)
each("gaussian_one", gaussian(), ["x", "v"], none, **x, **t, v=rand(3, 1) + 0.2)

# Probabilities and classes.
p, q = {"x": rand(3, 4) * 0.98 + 0.01}, {"t": rand(3, 4)}
each("bce", call(F.binary_cross_entropy), ["x", "t"], **p, **q)
each("bce_weight", lambda x, t, w, reduction: F.binary_cross_entropy(x, t, w, reduction=reduction), ["x", "t"], **p, **q, w=rand(4) + 0.5)
each("bce_at_ends", call(F.binary_cross_entropy), ["x"], none, x=numbers(0, 1, 0.5), t=numbers(0.25, 0.5, 1))
each("bce_beyond_ends", call(F.binary_cross_entropy), ["x"], none, x=numbers(0, 1), t=numbers(1, 0))
each("bce_right", call(F.binary_cross_entropy), ["x"], none, x=numbers(0, 1, 1e-30), t=numbers(0, 1, 0))
logits = call(F.binary_cross_entropy_with_logits)
each("bce_logits", logits, ["x", "t"], **x, **q)
each(
    "bce_logits_weights",
    lambda x, t, w, p, reduction: F.binary_cross_entropy_with_logits(x, t, w, pos_weight=p, reduction=reduction),
    ["x", "t"],
    **x, **q, w=rand(3, 1) + 0.5, p=3 * rand(4) + 0.2,
)
each("bce_logits_large", logits, ["x"], none, x=numbers(-200, -90, -30, 30, 90, 200), t=numbers(1, 0, 0.5, 0, 1, 0.25))
each("bce_logits_inf", logits, ["x"], none, x=numbers(inf, -inf, inf), t=numbers(0, 0, 1))
case("bce_logits_small_none", lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none") * 1e8, ["x"], x=numbers(-22, 22), t=numbers(0, 1))
for reduction in ("mean", "sum", "none", "batchmean"):
    each("kl", call(F.kl_div), ["x", "t"], (reduction,), x=randn(3, 4).log_softmax(1), t=randn(3, 4).softmax(1))
    each("kl_log", call(F.kl_div, log_target=True), ["x", "t"], (reduction,), x=randn(3, 4).log_softmax(1), t=randn(3, 4).log_softmax(1))
each("kl_zeros", call(F.kl_div), ["x"], none, x=numbers(-1, -2, -0.1), t=numbers(0, 1, 0))
focal = lambda **o: lambda x, t, reduction: torchvision.ops.sigmoid_focal_loss(x, t, reduction=reduction, **o)
bits = {"t": torch.randint(0, 2, (3, 4)).double()}
each("focal", focal(), ["x"], **x, **bits)
each("focal_plain", focal(alpha=-1, gamma=0.5), ["x", "t"], none, **x, **q)
each("focal_large", focal(), ["x"], none, x=numbers(-60, 60, -60, 60), t=numbers(0, 0, 1, 1))
ids = {"t": torch.tensor([2, 0, -100])}
weight = {"w": rand(4) + 0.5}
each(
    "cross_entropy",
    lambda x, t, w, reduction: F.cross_entropy(x, t, w, label_smoothing=0.1, reduction=reduction),
    ["x"],
    **x, **ids, **weight,
)
each("nll", lambda x, t, w, reduction: F.nll_loss(x, t, w, ignore_index=2, reduction=reduction), ["x"], x=randn(3, 4).log_softmax(1), t=torch.tensor([2, 0, 3]), **weight)


def distillation(student, teacher, t, reduction):
    soft = F.kl_div((student / 3).log_softmax(1), (teacher / 3).softmax(1), reduction="none").sum(1) * 9
    losses = 0.7 * soft + 0.3 * F.cross_entropy(student, t, reduction="none")
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


each("distillation", distillation, ["student"], student=randn(3, 4), teacher=randn(3, 4), t=torch.tensor([2, 0, 3]))

# Margins.
each("hinge", lambda x, t, reduction: {"mean": torch.mean, "sum": torch.sum, "none": lambda v: v}[reduction]((1 - t * x).relu()), ["x", "t"], **x, t=signs(3, 4))
each("hinge_squared", lambda x, t, reduction: (0.5 - t * x).relu() ** 2, ["x"], none, **x, t=signs(3, 4))
each("hinge_embedding", call(F.hinge_embedding_loss), ["x"], x=2 * rand(3, 4), t=signs(3, 4))
each("hinge_embedding_margin", call(F.hinge_embedding_loss, margin=0.5), ["x"], none, x=numbers(0.5, 0.25, 0.75, 0.5), t=numbers(-1, -1, -1, 1))
each("soft_margin", call(F.soft_margin_loss), ["x"], **x, t=signs(3, 4))
ranking = lambda **o: lambda x, y, t, reduction: F.margin_ranking_loss(x, y, t, reduction=reduction, **o)
each("ranking", ranking(), ["x", "y"], x=randn(6), y=randn(6), t=signs(6))
each("ranking_margin", ranking(margin=0.5), ["x", "y"], none, x=numbers(1, 1, 1), y=numbers(0.5, 2, 1.5), t=numbers(1, 1, -1))
multi = lambda **o: lambda x, t, w=None, reduction=None: F.multi_margin_loss(x, t, weight=w, reduction=reduction, **o)
each("multi_margin", multi(), ["x"], **x, t=torch.tensor([2, 0, 3]))
each("multi_margin_squared", multi(p=2, margin=0.7), ["x"], **x, t=torch.tensor([2, 0, 3]), **weight)
each("multi_margin_single", multi(), ["x"], none, x=numbers(1, 0, 0.5), t=torch.tensor(0))
labels = torch.tensor([[2, 0, -1, 1], [-1, 0, 0, 0], [3, 1, 2, 0]])
each("multilabel_margin", call(F.multilabel_margin_loss), ["x"], **x, t=labels)
each("multilabel_margin_single", call(F.multilabel_margin_loss), ["x"], ("mean",), x=randn(4), t=labels[0])
each("multilabel_soft", call(F.multilabel_soft_margin_loss), ["x"], **x, **bits)
each("multilabel_soft_weight", lambda x, t, w, reduction: F.multilabel_soft_margin_loss(x, t, w, reduction=reduction), ["x"], none, **x, **bits, **weight)

# Embeddings.
pair = {"x": randn(4, 3), "y": randn(4, 3)}
cosine = lambda **o: lambda x, y, t, reduction: F.cosine_embedding_loss(x, y, t, reduction=reduction, **o)
each("cosine", cosine(), ["x", "y"], **pair, t=numbers(1, -1, 1, -1))
each("cosine_margin", cosine(margin=-0.6), ["x", "y"], none, **pair, t=numbers(-1, -1, 1, -1))
each("cosine_zero", cosine(), ["x", "y"], none, x=numbers(0, 0, 0), y=numbers(1, 2, 3), t=torch.tensor(1.0))
three = {"a": randn(4, 3), "p": randn(4, 3), "n": randn(4, 3)}
triplet = lambda **o: lambda a, p, n, reduction: F.triplet_margin_loss(a, p, n, reduction=reduction, **o)
each("triplet", triplet(), ["a", "p", "n"], **three)
each("triplet_swap", triplet(swap=True, margin=2.0), ["a", "p", "n"], none, **three)
each("triplet_one", triplet(p=1.0, eps=1e-3), ["a", "p", "n"], none, **three)


def info_nce(q, k, n=None, reduction="mean"):
    q, k = F.normalize(q), F.normalize(k)
    if n is None:
        return F.cross_entropy(q @ k.T / 0.2, torch.arange(len(q)), reduction=reduction)
    n = F.normalize(n, dim=-1)
    far = q @ n.T if n.dim() == 2 else torch.einsum("nd,nmd->nm", q, n)
    return F.cross_entropy(torch.cat([(q * k).sum(1, keepdim=True), far], 1) / 0.2, torch.zeros(len(q), dtype=torch.long), reduction=reduction)


pair = {"q": randn(4, 3), "k": randn(4, 3)}
each("info_nce", info_nce, ["q", "k"], **pair)
each("info_nce_shared", info_nce, ["q", "k", "n"], none, **pair, n=randn(5, 3))
each("info_nce_own", info_nce, ["q", "k", "n"], none, **pair, n=randn(4, 2, 3))


# Connectionist temporal classification, from logits: PyTorch's gradient of log-probabilities is the one behind a log-softmax. In `ctc_log_probs` it is compared
# by itself.
def ctc(x, t, i, l, reduction, softmax=True, **o):
    return F.ctc_loss(x.log_softmax(-1) if softmax else x, t.long(), i.long(), l.long(), reduction=reduction, **o)


logits, lengths = {"x": randn(7, 3, 5)}, {"i": torch.tensor([7, 5, 6]), "l": torch.tensor([3, 2, 0])}
padded = {"t": torch.tensor([[1, 1, 4], [2, 3, -7], [0, 0, 0]])}
each("ctc", ctc, ["x"], **logits, **padded, **lengths)
each("ctc_log_probs", lambda **a: ctc(softmax=False, **a), ["x"], none, x=randn(7, 3, 5).log_softmax(-1), **padded, **lengths)
each("ctc_unnormalised", lambda **a: ctc(softmax=False, **a), ["x"], none, x=-3 * rand(7, 3, 5), **padded, **lengths)
each("ctc_blank", lambda **a: ctc(blank=2, **a), ["x"], **logits, t=torch.tensor([[1, 0, 4], [3, 3, 0], [1, 1, 1]]), i=lengths["i"], l=torch.tensor([3, 2, 1]))
each("ctc_joined", ctc, ["x"], **logits, t=torch.tensor([1, 1, 4, 2, 3]), **lengths)
short = {"i": torch.tensor([7, 2, 3]), "l": torch.tensor([3, 2, 3])}
twice = {"t": torch.tensor([[1, 1, 4], [3, 3, 1], [4, 4, 4]])}
each("ctc_infinite", ctc, ["x"], none, **logits, **twice, **short)
each("ctc_zero_infinity", lambda **a: ctc(zero_infinity=True, **a), ["x"], **logits, **twice, **short)
each("ctc_single", ctc, ["x"], x=randn(6, 4), t=torch.tensor([3, 1]), i=torch.tensor(6), l=torch.tensor(2))
each("ctc_long", ctc, ["x"], ("mean",), x=3 * randn(120, 2, 4), t=torch.randint(1, 4, (2, 40)), i=torch.tensor([120, 111]), l=torch.tensor([40, 23]))

# Distances.
pair = {"x": randn(2, 4, 3), "y": randn(2, 4, 3)}
for axis in (-1, 1):
    case(f"cosine_similarity_{axis % 3}", lambda x, y: F.cosine_similarity(x, y, axis), ["x", "y"], **pair)
case("cosine_similarity_tiny", lambda x, y: F.cosine_similarity(x, y), ["y"], x=1e-12 * randn(2, 3), y=randn(1, 3))
for p in (1.0, 2.0, 3.0, inf):
    case(f"pairwise_distance_{p:g}", lambda x, y: F.pairwise_distance(x, y, p), ["x", "y"], **pair)
    case(f"cdist_{p:g}", lambda x, y: torch.cdist(x, y, p), ["x", "y"], x=pair["x"], y=randn(2, 5, 3))
    case(f"normalize_{p:g}", lambda x: F.normalize(x, p, -1), ["x"], x=pair["x"])
case("cdist_same", lambda x: torch.cdist(x, x.detach()), ["x"], x=randn(3, 2))
case("xlogy", lambda x, y: torch.xlogy(x, y), ["x", "y"], x=numbers(0, 0, 1, -2, 0), y=numbers(0, 1, 2, 0.5, 3))
case("xlogy_nan", lambda x, y: torch.xlogy(x, y), ["x"], x=numbers(0, 0, 1), y=numbers(nan, -1, inf))

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "losses.safetensors")
narrow = {k: (v.float() if v.is_floating_point() else v.int()).contiguous().clone() for k, v in found.items()}
versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "python": sys.version.split()[0]}
save_file(narrow, path, versions)
print(len({k.split(".")[0] for k in narrow}), "cases,", os.path.getsize(path), "bytes", versions)
