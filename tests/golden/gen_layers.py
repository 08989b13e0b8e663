"""Golden values of the layers from PyTorch: python tests/golden/gen_layers.py writes tests/golden/layers.safetensors.

The format is that of layers_common.py; the same names with the same arguments stand in tests/all/golden_layers.rs.
"""

import torch
from torch import nn

from layers_common import case, draw, save

torch.manual_seed(4)

case("linear", nn.Linear(5, 3), [draw(2, 4, 5)])
case("bilinear", nn.Bilinear(3, 4, 5), [draw(2, 3, 3), draw(2, 3, 4)])
case("bilinear_no_bias", nn.Bilinear(2, 3, 1, bias=False), [draw(4, 2), draw(4, 3)])
case("embedding", nn.Embedding(7, 3), [torch.tensor([[1, 6], [0, 1]])])
case("embedding_padding", nn.Embedding(5, 3, padding_idx=2), [torch.tensor([[1, 2, 4], [2, 1, 1]])])

case("conv1d", nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), [draw(2, 4, 9)])
case("conv1d_same", nn.Conv1d(2, 3, 4, padding="same", dilation=2), [draw(2, 2, 9)])
case("conv1d_circular", nn.Conv1d(2, 3, 3, padding=2, padding_mode="circular"), [draw(2, 2, 7)])
case("conv2d", nn.Conv2d(2, 3, 3, padding=1), [draw(2, 2, 5, 6)])
case("conv2d_depthwise", nn.Conv2d(3, 6, (3, 2), stride=(1, 2), padding=(1, 0), groups=3, bias=False), [draw(2, 3, 6, 7)])
case("conv2d_dilated", nn.Conv2d(2, 3, 3, dilation=2, padding=2), [draw(1, 2, 7, 6)])
case("conv2d_same", nn.Conv2d(2, 2, (2, 3), padding="same"), [draw(2, 2, 5, 4)])
case("conv2d_reflect", nn.Conv2d(2, 2, 3, padding=(2, 1), padding_mode="reflect"), [draw(1, 2, 5, 4)])
case("conv2d_replicate", nn.Conv2d(2, 2, 3, padding=(1, 2), padding_mode="replicate", stride=2), [draw(1, 2, 5, 6)])
case("conv2d_circular", nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), [draw(1, 2, 4, 5)])
case("conv2d_same_reflect", nn.Conv2d(2, 2, (4, 3), padding="same", padding_mode="reflect"), [draw(1, 2, 6, 5)])
case("conv_transpose1d", nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), [draw(2, 4, 5)])
case("conv_transpose2d", nn.ConvTranspose2d(2, 3, (3, 2), stride=2, padding=1, output_padding=(1, 0)), [draw(2, 2, 4, 5)])
case("conv_transpose2d_dilated", nn.ConvTranspose2d(2, 2, 2, dilation=2, bias=False), [draw(1, 2, 3, 4)])

case("max_pool1d", nn.MaxPool1d(3, stride=2, padding=1, dilation=2, ceil_mode=True), [draw(2, 3, 10)])
case("max_pool2d", nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 0)), [draw(2, 2, 6, 5)])
case("avg_pool1d", nn.AvgPool1d(3, padding=1, count_include_pad=False), [draw(2, 3, 8)])
case("avg_pool2d", nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), [draw(2, 2, 6, 5)])
case("adaptive_avg_pool1d", nn.AdaptiveAvgPool1d(3), [draw(2, 3, 7)])
case("adaptive_max_pool1d", nn.AdaptiveMaxPool1d(3), [draw(2, 3, 7)])
case("adaptive_avg_pool2d", nn.AdaptiveAvgPool2d((2, 3)), [draw(2, 2, 5, 4)])
case("adaptive_max_pool2d", nn.AdaptiveMaxPool2d((2, 3)), [draw(2, 2, 5, 4)])

case("upsample", nn.Upsample(scale_factor=2), [draw(1, 2, 3, 4)])
case("upsample_bilinear", nn.Upsample(size=(5, 6), mode="bilinear", align_corners=True), [draw(1, 2, 3, 4)])
case("pixel_shuffle", nn.PixelShuffle(2), [draw(2, 8, 2, 3)])
case("pixel_unshuffle", nn.PixelUnshuffle(2), [draw(2, 2, 4, 6)])

case("batch_norm1d", nn.BatchNorm1d(3), [draw(5, 3)])
case("batch_norm1d_sequence", nn.BatchNorm1d(3, eps=1e-3, momentum=0.3), [draw(2, 3, 4)])
case("batch_norm2d", nn.BatchNorm2d(3), [draw(2, 3, 3, 4) * 2 + 1])
case("batch_norm2d_eval", nn.BatchNorm2d(3).eval(), [draw(2, 3, 3, 4)])
case("batch_norm2d_average", nn.BatchNorm2d(2, momentum=None, affine=False), [draw(2, 2, 3, 4)], call=lambda m, x: (m(x), m(x * 2)))
case("layer_norm", nn.LayerNorm((3, 4)), [draw(2, 3, 4)])
case("rms_norm", nn.RMSNorm(6), [draw(2, 3, 6)])
case("group_norm", nn.GroupNorm(2, 6), [draw(2, 6, 3)])
case("instance_norm1d", nn.InstanceNorm1d(3, affine=True), [draw(2, 3, 5)])
case("instance_norm2d", nn.InstanceNorm2d(3), [draw(2, 3, 3, 4)])
case("instance_norm2d_running", nn.InstanceNorm2d(3, affine=True, track_running_stats=True), [draw(2, 3, 3, 4) + 1])
case("instance_norm2d_eval", nn.InstanceNorm2d(3, track_running_stats=True).eval(), [draw(2, 3, 3, 4)])

x = [draw(3, 8) * 2]
for name, module in {
    "celu": nn.CELU(1.5),
    "elu": nn.ELU(1.5),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "glu": nn.GLU(),
    "hardshrink": nn.Hardshrink(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "hardtanh": nn.Hardtanh(-0.5, 1.5),
    "leaky_relu": nn.LeakyReLU(),
    "log_sigmoid": nn.LogSigmoid(),
    "log_softmax": nn.LogSoftmax(1),
    "mish": nn.Mish(),
    "prelu": nn.PReLU(8),
    "prelu_one": nn.PReLU(),
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "rrelu_eval": nn.RReLU().eval(),
    "selu": nn.SELU(),
    "silu": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "softmax": nn.Softmax(0),
    "softmin": nn.Softmin(1),
    "softplus": nn.Softplus(2),
    "softshrink": nn.Softshrink(),
    "softsign": nn.Softsign(),
    "tanh": nn.Tanh(),
    "tanhshrink": nn.Tanhshrink(),
    "threshold": nn.Threshold(0.3, -2),
}.items():
    case(name, module, x)

# What came later: last, so that the numbers of the others stay.
case("upsample_bicubic", nn.Upsample(scale_factor=(2, 1.5), mode="bicubic"), [draw(1, 2, 3, 4)])
case("upsample_linear", nn.Upsample(size=7, mode="linear"), [draw(2, 2, 4)])
case("upsample_nearest1d", nn.Upsample(scale_factor=2), [draw(2, 2, 4)])
case("conv1d_reflect", nn.Conv1d(2, 3, 3, padding=2, padding_mode="reflect"), [draw(2, 2, 6)])
case("conv1d_replicate", nn.Conv1d(2, 3, 5, padding=2, padding_mode="replicate"), [draw(2, 2, 4)])
case("conv_transpose2d_depthwise", nn.ConvTranspose2d(4, 4, 3, stride=2, groups=4), [draw(1, 4, 3, 3)])
case("batch_norm2d_untracked", nn.BatchNorm2d(3, track_running_stats=False).eval(), [draw(2, 3, 3, 4)])
case("group_norm_plain", nn.GroupNorm(3, 6, affine=False), [draw(2, 6, 2, 3)])
case("rms_norm_plain", nn.RMSNorm((2, 3), elementwise_affine=False), [draw(4, 2, 3)])
case("layer_norm_no_bias", nn.LayerNorm(5, bias=False), [draw(3, 5)])
case("unflatten", nn.Unflatten(1, (2, 3)), [draw(2, 6, 2)])

save(__file__, "layers.safetensors")
