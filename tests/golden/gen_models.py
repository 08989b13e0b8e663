"""What torchvision's models are: python tests/golden/gen_models.py writes tests/golden/models.json and tests/golden/mobilenet_tiny.safetensors.

- `counts`: for each published model the number of parameters, and FNV-1a hashes of its parameters in order and of its sorted state dict, as lines `name [shape]`.
- `cases`: outputs, gradients and buffers of models whose weights, and inputs, come from one formula (`numbers`, `value`) that tests/all/models.rs has too; computed
  in float64 from float32 numbers. A tensor that is too long for the file stands there as its norm and its product with the numbers of its name.
- `initial`: mean and standard deviation of the parameters that a new model has.

The safetensors file holds a small MobileNetV2 as PyTorch saves it, after one batch of training.
"""

import json
import os
import sys
import warnings

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models import inception, mobilenetv2, resnet

warnings.simplefilter("ignore")
here = os.path.dirname(os.path.abspath(__file__))
torch.manual_seed(15)


def fnv(text, bits=32):
    offset, prime = {32: (0x811C9DC5, 0x01000193), 64: (0xCBF29CE484222325, 0x100000001B3)}[bits]
    for byte in text.encode():
        offset = ((offset ^ byte) * prime) % (1 << bits)
    return offset


def numbers(name, n):
    """n numbers from -1 to 1 that float32 holds exactly: murmur3's finaliser over the name's hash and the position."""
    with np.errstate(over="ignore"):
        h = np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(fnv(name))
        for shift, factor in [(16, 0x85EBCA6B), (13, 0xC2B2AE35)]:
            h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
        h ^= h >> np.uint32(16)
    return (h >> np.uint32(8)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def value(name, shape):
    """A parameter or buffer, so that activations keep their size."""
    last = name.rsplit(".", 1)[-1]
    u = numbers(name, int(np.prod(shape)))
    if last in ("class_token", "pos_embedding"):
        u = np.float32(0.5) * u
    elif len(shape) >= 2:
        u = np.float32(np.sqrt(6.0 / np.prod(shape[1:]))) * u
    elif last == "running_var":
        u = np.float32(1) + np.float32(0.5) * u
    elif last == "weight":
        u = np.float32(1) + np.float32(0.25) * u
    else:
        u = np.float32(0.1) * u
    return torch.from_numpy(u.reshape(shape))


def fill(model):
    for name, t in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            t.fill_(3)
        else:
            t.copy_(value(name, tuple(t.shape)))
    return model.double()


def draw(name, shape):
    return torch.from_numpy(numbers(name, int(np.prod(shape))).reshape(shape)).double()


def short(name, t):
    t = t.detach().double().flatten()
    return [t.norm().item(), (t @ draw(name, t.shape)).item()]


cases = {}


def case(name, model, shape, train=False):
    """Outputs in evaluation mode, or outputs, gradients of their products with drawn numbers, and buffers in training mode."""
    fill(model)
    model.train(train)
    x = draw("input", shape).requires_grad_(train)
    with torch.set_grad_enabled(train):
        outs = model(x)
    outs = list(outs) if isinstance(outs, tuple) else [outs]
    found = {"input": list(shape), "outputs": [y.detach().flatten().tolist() for y in outs]}
    if train:
        sum((y * draw(f"cotangent{i}", y.shape)).sum() for i, y in enumerate(outs)).backward()
        found["grads"] = {n: short(n, p.grad) for n, p in model.named_parameters()}
        found["grad_input"] = short("input", x.grad)
        found["buffers"] = {n: short(n, b) for n, b in model.named_buffers() if not n.endswith("num_batches_tracked")}
    cases[name] = found
    print(name, [round(float(y.detach().abs().max()), 3) for y in outs])


def small_heads(model, at):
    """Linear layers of 32 features in place of 4096."""
    a, b, c = at
    model.classifier[a] = nn.Linear(model.classifier[a].in_features, 32)
    model.classifier[b] = nn.Linear(32, 32)
    model.classifier[c] = nn.Linear(32, 10)
    return model


class LeNet5(nn.Module):
    """As the paper has it, with full connections and a linear output."""

    def __init__(self, act, pool):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        self.act, self.pool = act, pool

    def forward(self, x):
        x = self.pool(self.act(self.conv1(x)))
        x = self.pool(self.act(self.conv2(x))).flatten(1)
        return self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))


def build(name, **options):
    if name == "lenet5":
        return LeNet5(nn.ReLU(), nn.MaxPool2d(2))
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return models.get_model(name, weights=None, **options)


def count(model):
    line = lambda name, t: f"{name} {list(t.shape)}\n"
    order = "".join(line(n, p) for n, p in model.named_parameters())
    state = "".join(sorted(line(n, t) for n, t in model.state_dict().items()))
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "entries": len(model.state_dict()),
        "order": f"{fnv(order, 64):016x}",
        "state": f"{fnv(state, 64):016x}",
    }


names = """alexnet googlenet inception_v3 lenet5 mobilenet_v2 resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d
vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14 wide_resnet50_2 wide_resnet101_2""".split()
counts = {}
with torch.device("meta"):
    for name in names:
        counts[name] = count(build(name))
    for width in (0.25, 0.5, 0.75, 1.4):
        counts[f"mobilenet_v2 width_mult={width}"] = count(mobilenetv2.MobileNetV2(width_mult=width))
    counts["googlenet aux_logits=False"] = count(build("googlenet", aux_logits=False))
    counts["inception_v3 num_classes=7"] = count(build("inception_v3", num_classes=7))
    counts["vit_b_16 image_size=384 representation_size=64"] = count(build("vit_b_16", image_size=384, representation_size=64))

case("lenet5", LeNet5(nn.ReLU(), nn.MaxPool2d(2)), (2, 1, 28, 28), train=True)
case("lenet5 classic", LeNet5(nn.Tanh(), nn.AvgPool2d(2)), (2, 1, 28, 28), train=True)
case("alexnet", small_heads(models.AlexNet(dropout=0.0), (1, 4, 6)), (2, 3, 64, 70), train=True)
case("vgg11", small_heads(build("vgg11", dropout=0.0), (0, 3, 6)), (1, 3, 32, 32))
case("vgg11_bn", small_heads(build("vgg11_bn", dropout=0.0), (0, 3, 6)), (2, 3, 64, 32))
case("resnet18", build("resnet18", num_classes=10), (2, 3, 64, 64))
case("resnet18 train", build("resnet18", num_classes=10), (4, 3, 64, 64), train=True)
case("resnet50", build("resnet50", num_classes=10), (1, 3, 64, 64))
few = dict(block=resnet.Bottleneck, num_classes=10)
case("bottleneck dilated train", resnet.ResNet(layers=[1, 1, 2, 1], replace_stride_with_dilation=[False, True, True], **few), (2, 3, 64, 64), train=True)
case("resnext", resnet.ResNet(layers=[1, 1, 1, 1], groups=32, width_per_group=4, **few), (2, 3, 64, 64))
case("wide", resnet.ResNet(layers=[1, 2, 1, 1], width_per_group=128, **few), (2, 3, 64, 64))
case("googlenet", build("googlenet", num_classes=10, transform_input=True), (2, 3, 64, 64))
case("googlenet train", build("googlenet", num_classes=10, dropout=0.0, dropout_aux=0.0), (2, 3, 64, 64), train=True)
case("inception_v3", build("inception_v3", num_classes=10, transform_input=True), (1, 3, 75, 75))
case("inception aux", inception.InceptionAux(16, 10), (4, 16, 17, 17), train=True)
case("mobilenet_v2", build("mobilenet_v2", num_classes=10), (2, 3, 64, 64))
case("mobilenet_v2 train", build("mobilenet_v2", num_classes=10, dropout=0.0), (4, 3, 64, 64), train=True)
case("mobilenet_v2 width_mult=0.35", build("mobilenet_v2", num_classes=10, width_mult=0.35), (2, 3, 32, 32))
vit = dict(patch_size=8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=10)
case("vit", models.VisionTransformer(image_size=32, **vit), (2, 3, 32, 32), train=True)
case("vit representation", models.VisionTransformer(image_size=16, representation_size=24, **vit), (2, 3, 16, 16), train=True)

initial = {}
for name, model in {
    "alexnet": build("alexnet"),
    "vgg11_bn": build("vgg11_bn"),
    "resnet18": build("resnet18", zero_init_residual=True),
    "resnet50": build("resnet50", zero_init_residual=True),
    "googlenet": models.GoogLeNet(init_weights=True),
    "inception_v3": models.Inception3(init_weights=True),
    "mobilenet_v2": build("mobilenet_v2"),
    "vit": models.VisionTransformer(image_size=32, representation_size=24, **vit),
}.items():
    chosen = {n: p.detach().double() for n, p in model.named_parameters() if p.numel() < 300_000}
    initial[name] = {n: [p.mean().item(), p.std(unbiased=False).item()] for n, p in chosen.items()}

tiny = mobilenetv2.MobileNetV2(num_classes=3, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [2, 32, 2, 2]])
tiny(draw("batch", (4, 3, 32, 32)).float())
tiny.eval()
with torch.no_grad():
    logits = tiny.double()(draw("input", (2, 3, 32, 32)))
tiny.float()
path = os.path.join(here, "mobilenet_tiny.safetensors")
versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "python": sys.version.split()[0]}
save_file(tiny.state_dict(), path, metadata=versions)
print(f"{path}: {os.path.getsize(path)} bytes")

path = os.path.join(here, "models.json")
with open(path, "w") as f:
    whole = {"versions": versions, "counts": counts, "cases": cases, "initial": initial, "tiny": logits.flatten().tolist()}
    parts = json.dumps(whole, separators=(",", ":"))
    f.write(parts.replace('},"', '},\n"') + "\n")
print(f"{path}: {os.path.getsize(path)} bytes")
