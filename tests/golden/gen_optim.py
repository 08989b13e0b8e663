"""Ten-step trajectories of PyTorch's optimizers: python gen_optim.py (written with torch 2.15, safetensors 0.8).

A linear model with a bias on fixed data, mean squared error. `<name>.<step>.weight` is the weight after that step."""
import torch
from safetensors.torch import save_file

torch.manual_seed(0)
x, y = torch.randn(16, 5), torch.randn(16, 3)
w0, b0 = torch.randn(3, 5) * 0.5, torch.randn(3)
out = {"x": x, "y": y, "weight": w0, "bias": b0}

configs = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd_dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.4),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adam_decay": lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05),
    "adamw_decay": lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.3),
}
for name, make in configs.items():
    w, b = w0.clone().requires_grad_(), b0.clone().requires_grad_()
    optimizer = make([w, b])
    for step in range(1, 11):
        if step == 6:  # the learning rate is no constant
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
        loss = (torch.nn.functional.linear(x, w, b) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        out[f"{name}.{step}.weight"] = w.detach().clone()
        out[f"{name}.{step}.bias"] = b.detach().clone()
save_file(out, __file__.replace("gen_optim.py", "optim.safetensors"))
