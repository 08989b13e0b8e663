"""Golden values of products, convolutions, pooling, patches and resampling from PyTorch.

    python tests/golden/gen_conv_pool.py        # writes tests/golden/conv_pool.safetensors

For each case: NAME/in0.. (float32), NAME/out, NAME/cot (a random cotangent) and NAME/grad0.., computed in float64 from the float32 inputs
and rounded once. The same names with the same arguments stand in tests/all/golden_conv.rs. The file's metadata has the versions.
"""

import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20)
tensors = {}


def case(name, shapes, f):
    inputs = [torch.randn(s, dtype=torch.float32) for s in shapes]
    xs = [x.double().requires_grad_() for x in inputs]
    y = f(*xs)
    cot = torch.randn(y.shape, dtype=torch.float32)
    grads = torch.autograd.grad(y, xs, cot.double())
    for i, (x, g) in enumerate(zip(inputs, grads)):
        tensors[f"{name}/in{i}"] = x.contiguous()
        tensors[f"{name}/grad{i}"] = g.float().contiguous()
    tensors[f"{name}/out"] = y.detach().float().contiguous()
    tensors[f"{name}/cot"] = cot.contiguous()


# Products.
case("matmul_vector_batch", [(5,), (3, 5, 4)], torch.matmul)
case("matmul_batch_vector", [(2, 3, 4, 5), (5,)], torch.matmul)
case("matmul_broadcast", [(2, 1, 4, 5), (3, 5, 6)], torch.matmul)
case("matmul_fold", [(2, 3, 4, 5), (5, 6)], torch.matmul)
case("matmul_odd", [(67, 33), (33, 70)], torch.matmul)
case("linear", [(2, 3, 7), (5, 7), (5,)], F.linear)

for i, (equation, shapes) in enumerate(
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("ij,jk", [(3, 4), (4, 5)]),
        ("ba,cb", [(3, 4), (5, 3)]),
        ("ii", [(4, 4)]),
        ("ii->i", [(4, 4)]),
        ("iji->j", [(4, 3, 4)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bihd,bjhd->bhij", [(2, 4, 3, 5), (2, 6, 3, 5)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 6)]),
        ("...ij->...ji", [(2, 3, 4)]),
        ("i,j->ij", [(3,), (4,)]),
        ("i,i->", [(5,), (5,)]),
        ("ijk,jil->kl", [(2, 3, 4), (3, 2, 5)]),
        ("ij,kl,jl->ik", [(2, 3), (4, 5), (3, 5)]),
        ("bn,anm,bm->ba", [(2, 3), (4, 3, 5), (2, 5)]),
        ("i...,i...->...", [(3, 4, 5), (3, 4, 5)]),
        ("ij,ij->ij", [(3, 4), (3, 4)]),
        ("ij,i->j", [(3, 4), (3,)]),
        ("ijij->ij", [(3, 4, 3, 4)]),
        ("i,ij", [(1,), (3, 4)]),
    ]
):
    case(f"einsum{i}", shapes, lambda *t, e=equation: torch.einsum(e, *t))

# Convolutions.
case("conv2d_plain", [(2, 3, 7, 6), (4, 3, 3, 3), (4,)], lambda x, w, b: F.conv2d(x, w, b))
case("conv2d_odd", [(2, 4, 9, 8), (6, 2, 3, 2), (6,)], lambda x, w, b: F.conv2d(x, w, b, stride=(2, 3), padding=(2, 1), dilation=(1, 2), groups=2))
case("conv2d_depthwise", [(2, 4, 8, 7), (8, 1, 3, 3)], lambda x, w: F.conv2d(x, w, stride=(1, 2), padding=1, dilation=(2, 1), groups=4))
case("conv2d_one", [(2, 5, 6, 6), (7, 5, 1, 1)], lambda x, w: F.conv2d(x, w))
case("conv2d_one_step", [(2, 5, 6, 7), (3, 5, 1, 1)], lambda x, w: F.conv2d(x, w, stride=2))
case("conv2d_large_kernel", [(1, 2, 5, 5), (3, 2, 7, 7)], lambda x, w: F.conv2d(x, w, padding=3))
case("conv2d_deep", [(1, 24, 9, 9), (20, 24, 3, 3)], lambda x, w: F.conv2d(x, w, padding=1))
case("conv1d", [(2, 4, 11), (6, 2, 3), (6,)], lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=2, dilation=2, groups=2))
case("conv_transpose2d", [(2, 4, 4, 5), (4, 3, 3, 2), (6,)], lambda x, w, b: F.conv_transpose2d(x, w, b, stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2))
case("conv_transpose2d_dilated", [(1, 2, 4, 4), (2, 3, 3, 3)], lambda x, w: F.conv_transpose2d(x, w, stride=1, padding=1, output_padding=1, dilation=2))
case("conv_transpose1d", [(2, 3, 5), (3, 2, 4), (2,)], lambda x, w, b: F.conv_transpose1d(x, w, b, stride=3, padding=1, output_padding=2))

# Pooling.
case("max_pool2d", [(2, 3, 8, 8)], lambda x: F.max_pool2d(x, 2))
case("max_pool2d_overlap", [(2, 3, 8, 9)], lambda x: F.max_pool2d(x, 3, stride=(2, 1), padding=1))
case("max_pool2d_ceil", [(1, 2, 8, 7)], lambda x: F.max_pool2d(x, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(2, 1), ceil_mode=True))
case("max_pool1d", [(2, 3, 11)], lambda x: F.max_pool1d(x, 3, stride=2, padding=1, ceil_mode=True))
case("avg_pool2d", [(2, 3, 8, 9)], lambda x: F.avg_pool2d(x, (2, 3)))
case("avg_pool2d_pad", [(2, 3, 8, 9)], lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True))
case("avg_pool2d_nopad", [(2, 3, 8, 9)], lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False))
case("avg_pool1d", [(2, 3, 11)], lambda x: F.avg_pool1d(x, 4, stride=3, padding=2, ceil_mode=True))
case("adaptive_avg_pool2d", [(2, 3, 7, 5)], lambda x: F.adaptive_avg_pool2d(x, (3, 2)))
case("adaptive_avg_pool2d_up", [(2, 3, 3, 4)], lambda x: F.adaptive_avg_pool2d(x, (5, 6)))
case("adaptive_max_pool2d", [(2, 3, 7, 5)], lambda x: F.adaptive_max_pool2d(x, (3, 4)))
case("adaptive_avg_pool1d", [(2, 3, 10)], lambda x: F.adaptive_avg_pool1d(x, 4))
case("adaptive_max_pool1d", [(2, 3, 10)], lambda x: F.adaptive_max_pool1d(x, 3))

# Patches.
case("unfold", [(2, 3, 7, 6)], lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)))
case("fold", [(2, 18, 16)], lambda x: F.fold(x, (7, 6), (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)))

# Resampling.
x = (2, 3, 5, 6)
case("nearest_up", [x], lambda x: F.interpolate(x, size=(8, 11), mode="nearest"))
case("nearest_down", [x], lambda x: F.interpolate(x, size=(3, 3), mode="nearest"))
case("nearest_double", [x], lambda x: F.interpolate(x, scale_factor=2, mode="nearest"))
case("nearest_factor", [x], lambda x: F.interpolate(x, scale_factor=(1.7, 0.6), mode="nearest"))
case("bilinear_up", [x], lambda x: F.interpolate(x, size=(8, 11), mode="bilinear"))
case("bilinear_down", [x], lambda x: F.interpolate(x, size=(3, 4), mode="bilinear"))
case("bilinear_corners", [x], lambda x: F.interpolate(x, size=(8, 3), mode="bilinear", align_corners=True))
case("bilinear_factor", [x], lambda x: F.interpolate(x, scale_factor=(1.7, 2.0), mode="bilinear"))
case("bicubic_up", [x], lambda x: F.interpolate(x, size=(9, 7), mode="bicubic"))
case("bicubic_corners", [x], lambda x: F.interpolate(x, size=(4, 11), mode="bicubic", align_corners=True))
case("bicubic_factor", [x], lambda x: F.interpolate(x, scale_factor=(0.7, 1.3), mode="bicubic"))
case("linear_1d", [(2, 3, 7)], lambda x: F.interpolate(x, size=12, mode="linear"))
case("nearest_1d", [(2, 3, 7)], lambda x: F.interpolate(x, size=10, mode="nearest"))

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "conv_pool.safetensors")
save_file(tensors, path, metadata={"torch": torch.__version__, "python": sys.version.split()[0]})
print(f"{len(tensors)} tensors, {os.path.getsize(path)} bytes")
