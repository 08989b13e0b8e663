"""What the generators of the layers' golden values share.

A case NAME is a module with drawn parameters: NAME/in0.. (float32 or int32), NAME/param/PATH and NAME/buffer/PATH before the call, NAME/out0..,
NAME/cot0.. (drawn cotangents), NAME/grad0.. and NAME/gradparam/PATH for sum(out * cot), and NAME/after/PATH, the buffers afterwards. All is computed in float64
from float32 numbers and rounded once. tests/all/golden.rs reads it.
"""

import os
import sys

import torch
from safetensors.torch import save_file

tensors = {}


def keep(name, t):
    t = t.detach()
    t = t.float() if t.is_floating_point() else t.to(torch.int32)
    tensors[name] = t.contiguous().clone()


def draw(*shape):
    """Normal numbers that float32 holds exactly, as float64."""
    return torch.randn(*shape, dtype=torch.float32).double()


def case(name, module, inputs, call=None, grads=True):
    """Runs `call(module, *inputs)`: a tensor or a tuple of them."""
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(draw(*p.shape) * 0.5)
    for path, p in module.named_parameters():
        keep(f"{name}/param/{path}", p)
    for path, b in module.named_buffers():
        keep(f"{name}/buffer/{path}", b)
    xs = [x.clone().requires_grad_(grads) if x.is_floating_point() else x for x in inputs]
    outs = (call or (lambda m, *xs: m(*xs)))(module, *xs)
    outs = outs if isinstance(outs, tuple) else (outs,)
    loss = 0
    for i, y in enumerate(outs):
        cot = draw(*y.shape)
        keep(f"{name}/out{i}", y)
        keep(f"{name}/cot{i}", cot)
        loss = loss + (y * cot).sum()
    loss.backward()
    for i, x in enumerate(xs):
        keep(f"{name}/in{i}", x)
        if x.is_floating_point() and grads:
            keep(f"{name}/grad{i}", x.grad if x.grad is not None else torch.zeros_like(x))
    for path, p in module.named_parameters():
        keep(f"{name}/gradparam/{path}", p.grad)
    for path, b in module.named_buffers():
        keep(f"{name}/after/{path}", b)


def save(generator, file):
    path = os.path.join(os.path.dirname(os.path.abspath(generator)), file)
    save_file(tensors, path, metadata={"torch": torch.__version__, "python": sys.version.split()[0]})
    print(f"{len(tensors)} tensors, {os.path.getsize(path)} bytes")
