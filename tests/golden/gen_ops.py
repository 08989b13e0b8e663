"""Writes activations, functions, reductions, indexing, rearranging and sorting.safetensors: ops, forward and backward, by PyTorch in f64.

    python gen_ops.py

Inputs are rounded to f32 first, results are stored as f32. Made with the versions in each file's metadata. A case's tensors are called
`case.in.NAME`, `case.out.NAME`, and `case.grad.NAME` for the gradient of sum(out * cot) with the fixed cotangents `case.cot.NAME`.
"""

import numpy
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(21)
found = {}


def case(name, f, diff=None, **inputs):
    """f takes the inputs by name and gives an output or a dict of them; gradients are taken for every float input, or those named."""
    args = {}
    for key, t in inputs.items():
        if t.is_floating_point():
            t = t.float().double()
            if diff is None or key in diff:
                t.requires_grad_()
        args[key] = t
    outs = f(**args)
    outs = outs if isinstance(outs, dict) else {"y": outs}
    loss = 0
    for key, o in outs.items():
        if o.requires_grad:
            cot = torch.randn(o.shape).float().double()
            found[f"{name}.cot.{key}"] = cot
            loss = loss + (o * cot).sum()
    if torch.is_tensor(loss):
        loss.backward()
    for key, t in args.items():
        found[f"{name}.in.{key}"] = t.detach()
        if t.grad is not None:
            found[f"{name}.grad.{key}"] = t.grad
    for key, o in outs.items():
        found[f"{name}.out.{key}"] = o.detach()


def save(theme):
    tensors = {}
    for key, t in found.items():
        t = t.detach()
        if t.is_floating_point():
            t = t.float()
        elif t.dtype == torch.bool:
            t = t.to(torch.uint8)
        else:
            t = t.to(torch.int32)
        tensors[key] = t.contiguous()
    versions = {"torch": torch.__version__, "numpy": numpy.__version__, "safetensors": safetensors.__version__}
    save_file(tensors, __file__.replace("gen_ops.py", f"{theme}.safetensors"), versions)
    print(theme, len({k.split(".")[0] for k in found}), "cases")
    found.clear()


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def within(lo, hi, *shape):
    return lo + (hi - lo) * torch.rand(*shape, dtype=torch.float64)


def distinct(*shape):
    """Values that are far from each other, shuffled."""
    n = int(numpy.prod(shape))
    return ((torch.randperm(n).double() - n / 2) * 0.25 + within(-0.05, 0.05, n)).reshape(shape)


def ints(lo, hi, *shape):
    return torch.randint(lo, hi, shape)


# Activations: a wide range, large arguments, and the kinks. (PyTorch and ours agree on the derivative there.)
x = torch.cat([4 * randn(21), torch.tensor([0.0, 1.0, -1.0, 30.0, -30.0, 88.0, -88.0, 100.0, -100.0, 6.0, -6.0]).double()]).reshape(4, 8)
for name, f in {
    "relu": torch.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, threshold=200),
    "softplus_sharp": lambda x: F.softplus(x, beta=2.5, threshold=400),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "softsign": F.softsign,
}.items():
    case(name, lambda x, f=f: f(x), x=x)
save("activations")

# Functions of one argument, where they are defined.
everywhere = torch.cat([3 * randn(18), torch.tensor([0.0, 1e-4, -1e-4, 1.0, -1.0, 5.0]).double()]).reshape(4, 6)
positive = torch.cat([within(0.01, 30, 18), torch.tensor([1.0, 1e-6, 1e6, 0.999, 1.001, 2.0]).double()]).reshape(4, 6)
inside = torch.cat([within(-0.99, 0.99, 20), torch.tensor([0.0, 1e-5, -1e-5, 0.5]).double()]).reshape(4, 6)
for names, x in {
    "exp exp2 expm1 sin cos tan atan sinh cosh asinh erf square abs neg": everywhere,
    "log log2 log10 sqrt rsqrt reciprocal": positive,
    "asin acos atanh": inside,
}.items():
    for name in names.split():
        case(name, lambda x, name=name: getattr(torch, name)(x), x=x)
case("log1p", lambda x: torch.log1p(x), x=within(-0.9, 20, 4, 6))
case("acosh", lambda x: torch.acosh(x), x=1.001 + within(0, 9, 4, 6))
# Roundings and signs: halves, negative zero, large values.
edges = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.0, -0.0, 0.49999997, 8388609.0, -3.7, 3.7])
for name in "floor ceil round trunc frac sign".split():
    case(name, lambda x, name=name: getattr(torch, name)(x), x=torch.cat([edges, 5 * torch.randn(12)]))
# Functions of two arguments; shapes broadcast.
a, b = 3 * randn(4, 1, 3), 2 * randn(2, 3)
for name in "add sub mul div remainder fmod maximum minimum atan2".split():
    case(f"{name}_two", lambda x, y, name=name: getattr(torch, name)(x, y), x=a, y=b)
case("floor_divide", lambda x, y: torch.floor_divide(x, y), diff=(), x=a, y=b)
case("pow_two", lambda x, y: torch.pow(x, y), x=within(0.1, 4, 4, 1, 3), y=b)
for p in (0, 1, 2, 3, -1, -2, 0.5):
    case(f"pow_{p}".replace(".", "_").replace("-", "m"), lambda x, p=p: torch.pow(x, p), x=within(0.2, 3, 5))
case("pow_negative", lambda x: torch.pow(x, 3), x=randn(6))
ties = torch.tensor([1.0, 2.0, 3.0, -1.0]).double()
case("maximum_ties", lambda x, y: torch.maximum(x, y), x=ties, y=torch.tensor([1.0, 0.0, 3.0, 4.0]).double())
case("minimum_ties", lambda x, y: torch.minimum(x, y), x=ties, y=torch.tensor([1.0, 0.0, 3.0, 4.0]).double())
# Not on the bounds: there the derivative is 1 here, and was in PyTorch before 2.15, which has 0.
case("clamp", lambda x: torch.clamp(x, -1.0, 1.5), x=2 * randn(10))
case("where", lambda x, y, m: torch.where(m, x, y), x=a, y=b, m=torch.rand(2, 1) > 0.4)
case("masked_fill", lambda x, m: x.masked_fill(m, -7.5), x=randn(3, 4), m=torch.rand(4) > 0.5)
save("functions")

# Reductions.
for name, axes in {"all": None, "first": [0], "middle": [1], "last": [2], "outer": [0, 2], "inner": [1, 2]}.items():
    args = {} if axes is None else {"dim": axes}
    x = randn(3, 4, 5)
    for kind in "sum mean".split():
        case(f"{kind}_{name}", lambda x, kind=kind: getattr(torch, kind)(x, **args), x=x)
    for c in (0, 1):
        case(f"var{c}_{name}", lambda x, c=c: torch.var(x, dim=axes, correction=c), x=x + 3)
        case(f"std{c}_{name}", lambda x, c=c: torch.std(x, dim=axes, correction=c), x=x + 3)
    for p in ("0.5", "1", "2", "3", "inf"):
        dim = axes if axes is not None else [0, 1, 2]
        case(f"norm{p.replace('.', '_')}_{name}", lambda x, p=p: torch.linalg.vector_norm(x, float(p), dim=dim), x=distinct(3, 4, 5) + 0.01)
    case(f"logsumexp_{name}", lambda x: torch.logsumexp(x, dim=axes if axes is not None else [0, 1, 2]), x=3 * x)
    case(f"max_{name}", lambda x: torch.amax(x, dim=axes if axes is not None else [0, 1, 2]), x=distinct(3, 4, 5))
    case(f"min_{name}", lambda x: torch.amin(x, dim=axes if axes is not None else [0, 1, 2]), x=distinct(3, 4, 5))
case("max_ties", lambda x: torch.amax(x, dim=1), x=torch.tensor([[1.0, 5, 5, 2], [3, 3, 3, 3], [0, -1, -2, 0]]).double())
case("logsumexp_large", lambda x: torch.logsumexp(x, dim=1), x=torch.tensor([[1000.0, 1001, 999], [-1000, -1001, -1000], [0, 80, -80]]).double())
case("norm_zero", lambda x: torch.linalg.vector_norm(x, 2.0, dim=1), x=torch.tensor([[3.0, 4, 0], [0, 0, 0]]).double())
# Products with no, one and two zeros in a line.
zeros = randn(4, 5)
zeros[1, 2] = zeros[2, 0] = zeros[2, 4] = 0
case("prod_last", lambda x: torch.prod(x, 1), x=zeros)
case("prod_first", lambda x: torch.prod(x, 0), x=zeros)
case("prod_all", lambda x: torch.prod(x), x=within(0.5, 1.5, 3, 4))
for axis in (0, 1):
    case(f"cumsum_{axis}", lambda x: torch.cumsum(x, axis), x=randn(4, 5))
    case(f"cumprod_{axis}", lambda x: torch.cumprod(x, axis), x=zeros)
    case(f"cummax_{axis}", lambda x: dict(zip(("y", "index"), torch.cummax(x, axis))), x=distinct(4, 5))
    case(f"argmax_{axis}", lambda x: torch.argmax(x, axis), diff=(), x=distinct(4, 5))
    case(f"argmin_{axis}", lambda x: torch.argmin(x, axis), diff=(), x=distinct(4, 5))
    case(f"any_{axis}", lambda m: torch.any(m, axis), m=torch.rand(4, 5) > 0.7)
    case(f"all_{axis}", lambda m: torch.all(m, axis), m=torch.rand(4, 5) > 0.3)


def recurrence(x, factors):
    y, out = 0, []
    for k in range(x.shape[1]):
        y = factors[:, k] * y + x[:, k]
        out.append(y)
    return torch.stack(out, 1)


case("linear_scan", recurrence, x=randn(3, 6), factors=within(-1, 1, 3, 6))
case("linear_scan_back", lambda x, factors: recurrence(x.flip(1), factors.flip(1)).flip(1), x=randn(3, 6), factors=within(-1, 1, 3, 6))
save("reductions")

# Picking and placing.
x = randn(4, 5, 3)
for axis, (n, shape) in enumerate([(4, (6, 5, 3)), (5, (4, 2, 3)), (3, (4, 5, 4))]):
    i = ints(0, n, *shape)
    case(f"gather_{axis}", lambda x, i: torch.gather(x, axis, i), x=x, i=i)
    case(f"scatter_add_{axis}", lambda x, i, s: torch.scatter_add(x, axis, i, s), x=x, i=i, s=randn(*shape))
    case(f"index_select_{axis}", lambda x, i: torch.index_select(x, axis, i), x=x, i=ints(0, n, 7))
    shape = list(x.shape)
    shape[axis] = 7
    case(f"index_add_{axis}", lambda x, i, s: torch.index_add(x, axis, i, s), x=x, i=ints(0, n, 7), s=randn(*shape))
    # No place twice: which of two values stays is nobody's promise there.
    i = torch.argsort(torch.rand(4, 5, 3), axis).narrow(axis, 0, 2)
    case(f"scatter_{axis}", lambda x, i, s: torch.scatter(x, axis, i, s), x=x, i=i, s=randn(*i.shape))
case("gather_small", lambda x, i: torch.gather(x, 1, i), x=x, i=ints(0, 5, 2, 7, 1))
case("scatter_add_small", lambda x, i, s: torch.scatter_add(x, 1, i, s[:2, :7, :1]), x=x, i=ints(0, 5, 2, 7, 1), s=randn(3, 8, 2))
case("take_along", lambda x, i: torch.take_along_dim(x, i, 1), x=randn(4, 5, 1), i=ints(0, 5, 1, 3, 6))
case("embedding", lambda w, i: F.embedding(i, w), w=randn(7, 3), i=ints(0, 7, 2, 5))
case("index_rows", lambda x, i: x[i], x=x, i=ints(-4, 4, 2, 3))
case("index_points", lambda x, i, j: x[i, j], x=x, i=ints(-4, 4, 2, 1), j=ints(-5, 5, 3))
case("index_apart", lambda x, i, j: x[i, :, j], x=x, i=ints(0, 4, 6), j=ints(0, 3, 6))
case("index_inner", lambda x, i, j: x[:, i, j], x=x, i=ints(0, 5, 6), j=ints(0, 3, 6))
case("masked_select", lambda x, m: torch.masked_select(x, m), x=randn(4, 5), m=torch.rand(4, 5) > 0.5)


def put(x, v):
    x = x.clone()
    x[1:3, ::2] = v
    return x


case("slice_put", put, x=randn(4, 5), v=randn(2, 3))
case("nonzero", lambda m: torch.nonzero(m), m=torch.rand(3, 4) > 0.5)
case("one_hot", lambda i: F.one_hot(i, 6), i=ints(0, 6, 3, 4))
case("bincount", lambda i: torch.bincount(i, minlength=9), i=ints(0, 6, 20))
x = distinct(2, 3, 6, 7)
for name, args in {"plain": ([2], {}), "overlap": ([3], {"stride": 2, "padding": 1}), "odd": ([(3, 2)], {"stride": (2, 1), "dilation": (1, 2)})}.items():
    case(f"pool_{name}", lambda x: dict(zip(("y", "index"), F.max_pool2d(x, *args[0], **args[1], return_indices=True))), x=x)
save("indexing")

# Rearranging.
x = randn(2, 3, 4, 5)
for mode in "constant reflect replicate circular".split():
    case(f"pad_{mode}", lambda x: F.pad(x, (3, 1, 1, 2), mode, **({"value": 0.5} if mode == "constant" else {})), x=x)
    case(f"pad_{mode}_line", lambda x: F.pad(x, (2, 3), mode, **({"value": -1.0} if mode == "constant" else {})), x=randn(2, 4, 6))
case("roll_last", lambda x: torch.roll(x, 2, 3), x=x)
case("roll_back", lambda x: torch.roll(x, -1, 1), x=x)
case("flip_one", lambda x: torch.flip(x, [2]), x=x)
case("flip_all", lambda x: torch.flip(x, [0, 1, 2, 3]), x=x)
for k in (-2, 0, 1):
    case(f"tril_{k + 2}", lambda x: torch.tril(x, k), x=randn(2, 4, 5))
    case(f"triu_{k + 2}", lambda x: torch.triu(x, k), x=randn(2, 4, 5))
    case(f"diagonal_{k + 2}", lambda x: torch.diagonal(x, k, 1, 2), x=randn(2, 4, 5))
case("tile_more", lambda x: x.repeat(2, 3, 1, 2), x=randn(3, 1, 2))
case("tile_less", lambda x: torch.tile(x, (2,)), x=randn(3, 2))
case("cat_three", lambda x, y, z: torch.cat([x, y, z], 1), x=randn(2, 3, 2), y=randn(2, 1, 2), z=randn(2, 4, 2))
case("stack_two", lambda x, y: torch.stack([x, y], -1), x=randn(2, 3), y=randn(2, 3))
case("split_sizes", lambda x: dict(zip("abc", torch.split(x, [1, 2, 3], 1))), x=randn(2, 6))
case("chunk_three", lambda x: dict(zip("abc", torch.chunk(x, 3, 0))), x=randn(7, 2))
case("unbind", lambda x: dict(zip("abc", torch.unbind(x, 1))), x=randn(2, 3, 2))
case("movedim", lambda x: torch.movedim(x, 1, -1), x=x)
case("permute", lambda x: x.permute(2, 0, 3, 1), x=x)
case("expand", lambda x: x.expand(4, 3, 5), x=randn(3, 1))
case("windows", lambda x: x.unfold(1, 3, 2), x=randn(2, 9, 2))
case("meet", lambda x: x[0] * x[1] + x.sum(0), x=randn(2, 5))
save("rearranging")

# Sorting.
for axis in (0, 1):
    for name, down in {"up": False, "down": True}.items():
        case(f"sort_{name}_{axis}", lambda x: dict(zip(("y", "index"), torch.sort(x, axis, down))), x=distinct(6, 7))
        case(f"argsort_{name}_{axis}", lambda x: torch.argsort(x, axis, down), diff=(), x=distinct(6, 7))
        case(f"topk_{name}_{axis}", lambda x: dict(zip(("y", "index"), torch.topk(x, 3, axis, down))), x=distinct(6, 7))
case("sort_ties", lambda x: dict(zip(("y", "index"), torch.sort(x, dim=1, stable=True))), x=ints(0, 3, 3, 20).double())
case("sort_ties_down", lambda x: dict(zip(("y", "index"), torch.sort(x, dim=1, descending=True, stable=True))), x=ints(0, 3, 3, 20).double())
case("sort_long", lambda x: dict(zip(("y", "index"), torch.sort(x, 0))), x=distinct(1500))
edges = torch.tensor([-1.0, 0.5, 0.5, 2.0, 7.0]).double()
v = torch.tensor([[-3.0, -1.0, 0.5], [0.7, 7.0, 9.0]]).double()
for side in ("left", "right"):
    case(f"searchsorted_{side}", lambda e, v: torch.searchsorted(e, v, side=side), diff=(), e=edges, v=v)
rows = torch.sort(distinct(3, 8), 1).values
case("searchsorted_rows", lambda e, v: torch.searchsorted(e, v), diff=(), e=rows, v=randn(3, 5))
case("unique", lambda i: dict(zip(("counts", "inverse", "y"), reversed(torch.unique(i, return_inverse=True, return_counts=True)))), i=ints(-3, 4, 4, 5))
save("sorting")

# Norms of negative order.
for name, axes in {"all": [0, 1, 2], "middle": [1], "outer": [0, 2]}.items():
    for kind, p in {"normneg1": -1.0, "normneg2": -2.5, "normneginf": -float("inf")}.items():
        case(f"{kind}_{name}", lambda x, p=p: torch.linalg.vector_norm(x, p, dim=axes), x=distinct(3, 4, 5) + 0.01)
save("norms")
