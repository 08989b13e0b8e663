"""Pointwise functions and their gradients where they are hard, by PyTorch: python gen_special.py (written with torch 2.15, safetensors 0.8).

`x` are the points of functions of one argument; `<name>.y` is what f32 gives, `<name>.t` the rounding of what f64 gives. `<name>.g` and `<name>.gt` are
the derivatives. `a` and `b` are the points of functions of two; their derivatives are `<name>.ga`, `.gb`."""
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(0)
nan, inf = float("nan"), float("inf")
positive = [0.0, 1e-45, 1e-40, 1.1754944e-38, 1e-30, 1e-20, 1e-8, 1e-4, 0.1, 0.25, 0.4999999, 0.5, 0.75, 0.9999999, 1.0, 1.0000001, 1.5, 2.0, 2.5, 3.0, 6.0, 7.5, 9.0,
            10.0, 16.6, 17.0, 20.0, 44.0, 88.0, 88.6, 88.72, 88.73, 89.0, 90.0, 103.0, 104.0, 127.5, 128.0, 150.0, 1e3, 1e4, 12345.678, 1e5, 1e6, 8388607.5, 8388608.0,
            16777216.0, 1e7, 1e8, 1e9, 2147483648.0, 1e10, 1e15, 1e20, 1e25, 1e30, 3e38, 3.4028235e38, inf, 3.1415927, 1.5707964, 22.0, 710.0, 355.0, 33554430.0,
            1.6367e38, 6381956970095103.0, 1.9e19, 4.4e-23]
sizes = torch.exp2(torch.rand(60) * 250 - 124)
x = torch.tensor(positive + [-v for v in positive] + [nan])
x = torch.cat([x, sizes * torch.randint(0, 2, (60,)).mul(2).sub(1), torch.randn(60), torch.rand(40) * 200 - 100]).to(torch.float32)
out = {"x": x}


def keep(name, suffix, values32, values64):
    out[name + suffix[0]] = values32.detach().clone()
    if values32.dtype != torch.bool:
        out[name + suffix[1]] = values64.detach().to(torch.float32).clone()


def one(name, f, grad=True):
    a, d = x.clone().requires_grad_(grad), x.double().requires_grad_(grad)
    y, t = f(a), f(d)
    keep(name, (".y", ".t"), y, t)
    if grad:
        g, gt = (torch.autograd.grad(v.sum(), p)[0] for v, p in ((y, a), (t, d)))
        keep(name, (".g", ".gt"), g, gt)


smooth = dict(
    neg=torch.neg, abs=torch.abs, sign=torch.sign, square=torch.square, recip=torch.reciprocal, sqrt=torch.sqrt, rsqrt=torch.rsqrt, exp=torch.exp, exp2=torch.exp2,
    expm1=torch.expm1, log=torch.log, log2=torch.log2, log10=torch.log10, log1p=torch.log1p, sin=torch.sin, cos=torch.cos, tan=torch.tan, asin=torch.asin,
    acos=torch.acos, atan=torch.atan, sinh=torch.sinh, cosh=torch.cosh, tanh=torch.tanh, asinh=torch.asinh, acosh=torch.acosh, atanh=torch.atanh, erf=torch.erf,
    floor=torch.floor, ceil=torch.ceil, round=torch.round, trunc=torch.trunc, fract=torch.frac, relu=torch.relu, sigmoid=torch.sigmoid, silu=F.silu, gelu=F.gelu,
    gelu_tanh=lambda v: F.gelu(v, approximate="tanh"), mish=F.mish, selu=F.selu, hardsigmoid=F.hardsigmoid, hardswish=F.hardswish, softsign=F.softsign,
    leaky_relu=lambda v: F.leaky_relu(v, 0.1), elu=lambda v: F.elu(v, 1.5), softplus=lambda v: F.softplus(v, 2.0), clamp=lambda v: v.clamp(-1, 1),
    square_pow=lambda v: v**2, cube=lambda v: v**3, fourth=lambda v: v**4, root=lambda v: v**0.5, inverse=lambda v: v**-1, third=lambda v: v**-3, odd=lambda v: v**2.5,
    maximum_0=lambda v: torch.maximum(v, torch.zeros((), dtype=v.dtype)), minimum_0=lambda v: torch.minimum(v, torch.zeros((), dtype=v.dtype)),
    logsumexp=lambda v: torch.logsumexp(torch.stack([v, -v.detach(), v * 0.5], 1), 1),
    softmax=lambda v: torch.stack([v, v.detach() * 0.5, v.detach() * 0.25], 1).softmax(1)[:, 0],
)
for name, f in smooth.items():
    one(name, f)
for name, f in dict(isnan=torch.isnan, isinf=torch.isinf, logical_not=torch.logical_not, difference=lambda v: v - v, quotient=lambda v: v / v, nought=lambda v: v * 0).items():
    one(name, f, False)
for name, dtype in dict(i32=torch.int32, u8=torch.uint8, bool=torch.bool, f16=torch.float16, bf16=torch.bfloat16).items():
    if name in ("f16", "bf16", "bool"):
        out["cast_" + name + ".y"] = x.to(dtype).to(torch.float32)

special = [0.0, 1e-45, 1e-30, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0, 10.0, 16777215.0, 16777216.0, 1e9, 1e10, 1e20, 3e38, 3.4028235e38, inf]
special = torch.tensor(special + [-v for v in special] + [nan])
a, b = torch.meshgrid(special, special, indexing="ij")
more = [torch.exp2(torch.rand(80) * 60 - 30) * torch.randint(0, 2, (80,)).mul(2).sub(1) for _ in range(2)]
near = [torch.rand(60) * 4, torch.rand(60) * 16 - 8]
a, b = torch.cat([a.reshape(-1), more[0], near[0]]), torch.cat([b.reshape(-1), more[1], near[1]])
out["a"], out["b"] = a, b


def two(name, f, grad=True):
    l, r, dl, dr = a.clone(), b.clone(), a.double(), b.double()
    for v in (l, r, dl, dr):
        v.requires_grad_(grad)
    y, t = f(l, r), f(dl, dr)
    keep(name, (".y", ".t"), y, t)
    if grad:
        for k, (p, d) in dict(a=(l, dl), b=(r, dr)).items():
            g = torch.autograd.grad(y.sum(), p, retain_graph=True)[0]
            gt = torch.autograd.grad(t.sum(), d, retain_graph=True)[0]
            keep(name, (".g" + k, ".gt" + k), g, gt)


for name in ("add", "sub", "mul", "div", "pow", "maximum", "minimum", "atan2"):
    two(name, getattr(torch, name))
two("fmod", torch.fmod, False)
two("rem", torch.remainder, False)
two("floor_div", torch.floor_divide, False)
for name in ("eq", "ne", "lt", "le", "gt", "ge"):
    two(name, getattr(torch, name), False)
# Rows: what is no pointwise function.
rows = torch.tensor([[-inf, -inf, -inf, -inf], [inf, 1.0, 2.0, 0.0], [nan, 1.0, 2.0, 3.0], [1.0, 2.0, nan, 3.0], [-inf, 0.0, 1.0, -inf], [3e38, -3e38, 0.0, 1.0], [88.0, -88.0, 0.0, 104.0],
                     [inf, -inf, 0.0, 1.0], [0.0, -0.0, 0.0, -0.0], [1e-20, 2e-20, 3e-20, 4e-20], [1e4, 1e4 + 1, 1e4 + 2, 1e4 + 4]])
out["rows"] = rows
for name, f in dict(softmax=lambda v: v.softmax(1), log_softmax=lambda v: v.log_softmax(1), row_logsumexp=lambda v: v.logsumexp(1), max=lambda v: v.max(1)[0], min=lambda v: v.min(1)[0],
                    argmax=lambda v: v.argmax(1), sum=lambda v: v.sum(1), mean=lambda v: v.mean(1), prod=lambda v: v.prod(1), layer_norm=lambda v: F.layer_norm(v, (4,)),
                    rms_norm=lambda v: F.rms_norm(v, (4,), eps=1e-6), max_pool=lambda v: F.max_pool1d(v[:, None], 2)[:, 0], avg_pool=lambda v: F.avg_pool1d(v[:, None], 2)[:, 0],
                    cumsum=lambda v: v.cumsum(1), cumprod=lambda v: v.cumprod(1), cummax=lambda v: v.cummax(1)[0], sort=lambda v: v.sort(1)[0], var=lambda v: v.var(1), norm=lambda v: v.norm(dim=1),
                    cross_entropy=lambda v: F.cross_entropy(v, torch.ones(len(v), dtype=torch.long), reduction="none"), any=lambda v: v.any(1), all=lambda v: v.all(1)).items():
    out["row." + name + ".y"], out["row." + name + ".t"] = f(rows).to(torch.float32), f(rows.double()).to(torch.float32)
save_file({k: v.contiguous() for k, v in out.items()}, __file__.replace("gen_special.py", "special.safetensors"))
