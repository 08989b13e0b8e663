"""Writes norm_attention.safetensors: softmax, norms, losses, attention and linear algebra, forward and backward, by PyTorch in f64.

    python gen_norm_attention.py

Inputs are rounded to f32 first, results are stored as f32. Made with the versions in the file's metadata. A case's tensors are called
`case.in.NAME`, `case.out.NAME`, and `case.grad.NAME` for the gradient of sum(out * cot) with the fixed cotangents `case.cot.NAME`.
"""

import numpy
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(7)
found = {}


def case(name, f, diff=(), **inputs):
    """f takes the inputs by name and gives a dict of outputs; `diff` names the inputs that want gradients."""
    args = {}
    for key, t in inputs.items():
        if t.is_floating_point():
            t = t.float().double()
            if key in diff:
                t.requires_grad_()
        args[key] = t
    outs = f(**args)
    loss = 0
    for key, o in outs.items():
        if o.requires_grad and key not in ("mean", "var"):
            cot = torch.randn(o.shape).float().double()
            found[f"{name}.cot.{key}"] = cot
            loss = loss + (o * cot).sum()
    if diff:
        loss.backward()
    for key, t in args.items():
        found[f"{name}.in.{key}"] = t.detach()
        if key in diff:
            found[f"{name}.grad.{key}"] = t.grad
    for key, o in outs.items():
        found[f"{name}.out.{key}"] = o.detach()


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# Softmax: each axis of an odd shape, and rows with infinities.
for axis in range(3):
    case(f"softmax{axis}", lambda x: {"y": x.softmax(axis)}, ["x"], x=3 * randn(3, 5, 7))
    case(f"log_softmax{axis}", lambda x: {"y": x.log_softmax(axis)}, ["x"], x=3 * randn(3, 5, 7))
holes = randn(3, 4)
holes[0, 1] = -torch.inf
holes[1, :] = -torch.inf
case("softmax_inf", lambda x: {"y": x.softmax(1), "z": x.log_softmax(1)}, x=holes)

# Norms.
case("layer_norm", lambda x, w, b: {"y": F.layer_norm(x, [5, 7], w, b, 1e-5)}, ["x", "w", "b"], x=randn(2, 3, 5, 7) + 2, w=randn(5, 7), b=randn(5, 7))
case("layer_norm_plain", lambda x: {"y": F.layer_norm(x, [33], None, None, 1e-3)}, ["x"], x=randn(4, 33))
case("rms_norm", lambda x, w: {"y": F.rms_norm(x, [33], w, 1e-6)}, ["x", "w"], x=randn(2, 3, 33), w=randn(33))
case("group_norm", lambda x, w, b: {"y": F.group_norm(x, 3, w, b, 1e-5)}, ["x", "w", "b"], x=randn(2, 6, 5, 3), w=randn(6), b=randn(6))
case("instance_norm", lambda x, w, b: {"y": F.instance_norm(x, weight=w, bias=b)}, ["x", "w", "b"], x=randn(2, 3, 17), w=randn(3), b=randn(3))


def batch_norm(x, w, b):
    axes = [a for a in range(x.dim()) if a != 1]
    y = F.batch_norm(x, None, None, w, b, True, 0.1, 1e-5)
    return {"y": y, "mean": x.mean(axes), "var": x.var(axes, correction=0)}


case("batch_norm_2d", batch_norm, ["x", "w", "b"], x=randn(3, 5, 4, 5) + 1, w=randn(5), b=randn(5))
case("batch_norm_rows", batch_norm, ["x", "w", "b"], x=randn(9, 4), w=randn(4), b=randn(4))
case(
    "batch_norm_eval",
    lambda x, m, v, w, b: {"y": F.batch_norm(x, m, v, w, b, False, 0.1, 1e-5)},
    ["x", "w", "b"],
    x=randn(3, 4, 3), m=randn(4), v=randn(4) ** 2 + 0.1, w=randn(4), b=randn(4),
)

# Losses.
ids = torch.randint(0, 7, (6,))
ids[2] = -100
ids3 = torch.randint(0, 5, (2, 3, 4))
ids3[1, 2, 0] = 1
for reduction in ["mean", "sum", "none"]:
    case(f"cross_entropy_{reduction}", lambda x, t: {"y": F.cross_entropy(x, t, reduction=reduction)}, ["x"], x=2 * randn(6, 7), t=ids)
    case(
        f"cross_entropy_all_{reduction}",
        lambda x, t, w: {"y": F.cross_entropy(x, t, w, ignore_index=1, label_smoothing=0.1, reduction=reduction)},
        ["x"],
        x=2 * randn(2, 5, 3, 4), t=ids3, w=torch.rand(5, dtype=torch.float64) + 0.5,
    )
    case(
        f"cross_entropy_soft_{reduction}",
        lambda x, q, w: {"y": F.cross_entropy(x, q, w, label_smoothing=0.2, reduction=reduction)},
        ["x", "q"],
        x=2 * randn(3, 5, 2), q=randn(3, 5, 2).softmax(1), w=torch.rand(5, dtype=torch.float64) + 0.5,
    )
    case(
        f"nll_loss_{reduction}",
        lambda x, t, w: {"y": F.nll_loss(x, t, w, ignore_index=3, reduction=reduction)},
        ["x"],
        x=randn(6, 7).log_softmax(1), t=ids.clamp(0), w=torch.rand(7, dtype=torch.float64) + 0.5,
    )
case("cross_entropy_one", lambda x, t: {"y": F.cross_entropy(x, t)}, ["x"], x=randn(5), t=torch.tensor(3))


# Attention.
def attention(q, k, v, mask=None, bias=None, causal=False, scale=None):
    extra = mask if bias is None else bias
    y = F.scaled_dot_product_attention(q, k, v, extra, 0.0, causal, scale=scale, enable_gqa=q.dim() > 2 and q.shape[-3] != k.shape[-3])
    return {"y": y}


qkv = ["q", "k", "v"]
case("attention", attention, qkv, q=randn(2, 3, 37, 19), k=randn(2, 3, 45, 19), v=randn(2, 3, 45, 11))
case("attention_causal", lambda q, k, v: attention(q, k, v, causal=True), qkv, q=randn(1, 2, 70, 8), k=randn(1, 2, 70, 8), v=randn(1, 2, 70, 8))
case("attention_scale", lambda q, k, v: attention(q, k, v, scale=0.7), qkv, q=randn(3, 5, 4), k=randn(3, 6, 4), v=randn(3, 6, 4))
case("attention_groups", attention, qkv, q=randn(2, 6, 9, 5), k=randn(2, 2, 13, 5), v=randn(2, 2, 13, 5))
mask = torch.rand(2, 1, 7, 9) > 0.4
mask[1, 0, 3] = False
case("attention_mask", attention, qkv, q=randn(2, 3, 7, 6), k=randn(2, 3, 9, 6), v=randn(2, 3, 9, 6), mask=mask)
case("attention_bias", attention, qkv + ["bias"], q=randn(2, 3, 7, 6), k=randn(2, 3, 9, 6), v=randn(2, 3, 9, 6), bias=randn(3, 7, 9))

# Linear algebra: only what does not depend on signs and phases is compared.
square = randn(2, 4, 4)
symmetric = square + square.mT
positive = square @ square.mT + torch.eye(4, dtype=torch.float64)


def qr(a):
    q, r = torch.linalg.qr(a)
    return {"qq": q * q, "rr": r * r}


def svd(a):
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    return {"uu": u * u, "s": s, "vv": vt * vt}


def eigh(a):
    w, v = torch.linalg.eigh((a + a.mT) / 2)
    return {"w": w, "vv": v * v}


case("qr", qr, ["a"], a=randn(2, 5, 3))
case("qr_wide", lambda a: {"rr": torch.linalg.qr(a)[1] ** 2}, a=randn(3, 5))
case("svd", svd, ["a"], a=randn(2, 5, 3))
case("svd_wide", svd, ["a"], a=randn(3, 4))
case("eigh", eigh, ["a"], a=symmetric)
case("cholesky", lambda a: {"l": torch.linalg.cholesky((a + a.mT) / 2)}, ["a"], a=positive)
case("solve", lambda a, b: {"x": torch.linalg.solve(a, b)}, ["a", "b"], a=square, b=randn(2, 4, 3))
case("det", lambda a: {"d": torch.linalg.det(a)}, ["a"], a=square)
case("inverse", lambda a: {"x": torch.linalg.inv(a)}, ["a"], a=square)

versions = {"torch": torch.__version__, "numpy": numpy.__version__, "safetensors": safetensors.__version__}
narrow = {k: (v.float() if v.is_floating_point() else v.int() if v.dtype == torch.int64 else v).contiguous() for k, v in found.items()}
save_file(narrow, __file__.replace("gen_norm_attention.py", "norm_attention.safetensors"), versions)
print(len(narrow), "tensors", versions)
