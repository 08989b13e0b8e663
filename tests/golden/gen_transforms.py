"""Golden values of image transforms from torchvision: python tests/golden/gen_transforms.py writes tests/golden/transforms.json.

A case is the transform's name with its arguments, as tests/all/transforms.rs knows them, and the numbers of the changed image.
"""

import json
import os

import numpy
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode as Mode
from torchvision.transforms.v2 import functional as F

torch.manual_seed(3)
image = torch.rand(3, 9, 7, dtype=torch.float32)
# Equal channels, where hue and saturation have no meaning.
image[:, 0, 0] = 0.25
image[:, 1, 1] = 1.0
image[:, 2, 2] = 0.0
cases = {}


def case(name, x):
    cases[name] = {"shape": list(x.shape), "values": [float(f"{v:.8g}") for v in x.contiguous().flatten().tolist()]}


case("image", image)
for h, w in [(5, 4), (18, 14), (4, 13), (9, 7), (1, 1)]:
    case(f"resize {h} {w} bilinear", F.resize(image, [h, w], Mode.BILINEAR, antialias=True))
    case(f"resize {h} {w} nearest", F.resize(image, [h, w], Mode.NEAREST))
    case(f"resize {h} {w} bicubic", F.resize(image, [h, w], Mode.BICUBIC, antialias=True))
for h, w in [(4, 4), (9, 7), (5, 3), (12, 10), (3, 8)]:
    case(f"center_crop {h} {w}", F.center_crop(image, [h, w]))
case("flip_horizontal", F.horizontal_flip(image))
case("flip_vertical", F.vertical_flip(image))
square = image[:, 1:8, :]
for angle in [0, 90, 180, 270, 33, -17.5]:
    for mode, text in [(Mode.NEAREST, "nearest"), (Mode.BILINEAR, "bilinear")]:
        case(f"rotate {angle} {text}", F.rotate(image, angle, mode, fill=[0.0]))
        case(f"rotate_square {angle} {text}", F.rotate(square, angle, mode, fill=[0.0]))
for angle in [0, 90, 180, 270, 33, -17.5, 45]:
    for mode, text in [(Mode.NEAREST, "nearest"), (Mode.BILINEAR, "bilinear")]:
        case(f"rotate_whole {angle} {text}", F.rotate(image, angle, mode, expand=True, fill=[0.0]))
# torchvision has no cubic for tensors; for pictures it calls Pillow, which turns one plane of f32 numbers exactly.
planes = [Image.fromarray(plane.numpy(), mode="F") for plane in image]
for angle in [33, -17.5]:
    turned = [numpy.array(plane.rotate(angle, Image.Resampling.BICUBIC, fillcolor=0)) for plane in planes]
    case(f"rotate {angle} bicubic", torch.tensor(numpy.stack(turned)))
for sides in [(1, 2, 3, 0), (2, 2, 2, 2)]:
    top, left, bottom, right = sides
    for mode in ["constant", "reflect", "edge"]:
        case(f"pad {top} {left} {bottom} {right} {mode}", F.pad(image, [left, top, right, bottom], fill=0.5, padding_mode=mode))
case("rotate_fill 20 nearest", F.rotate(image, 20, Mode.NEAREST, fill=[0.5]))
case("rotate_fill 20 bilinear", F.rotate(image, 20, Mode.BILINEAR, fill=[0.5]))
for angle, shift, scale, shear in [(12.0, [1, -2], 1.1, [0.0, 0.0]), (-40.0, [0, 0], 0.7, [10.0, 0.0]), (5.0, [2, 1], 1.0, [-8.0, 6.0])]:
    for mode, text in [(Mode.NEAREST, "nearest"), (Mode.BILINEAR, "bilinear")]:
        args = f"{angle} {shift[0]} {shift[1]} {scale} {shear[0]} {shear[1]}"
        case(f"affine {args} {text}", F.affine(image, angle, shift, scale, shear, mode, fill=[0.0]))
for factor in [0.0, 0.4, 1.0, 1.7]:
    case(f"brightness {factor}", F.adjust_brightness(image, factor))
    case(f"contrast {factor}", F.adjust_contrast(image, factor))
    case(f"saturation {factor}", F.adjust_saturation(image, factor))
for turn in [-0.5, -0.13, 0.0, 0.21, 0.5]:
    case(f"hue {turn}", F.adjust_hue(image, turn))
case("grayscale 1", F.rgb_to_grayscale(image, 1))
case("grayscale 3", F.rgb_to_grayscale(image, 3))
for kernel, sigma in [(3, 0.8), (5, 1.5), (1, 1.0)]:
    case(f"blur {kernel} {sigma}", F.gaussian_blur(image, [kernel, kernel], [sigma, sigma]))
case("normalize", F.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
case("erase 2 1 4 3 0.5", F.erase(image, 2, 1, 4, 3, torch.tensor(0.5)))

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "transforms.json"), "w") as f:
    json.dump({"versions": {"torch": torch.__version__, "torchvision": torchvision.__version__}, "cases": cases}, f, separators=(",", ":"))
    f.write("\n")
