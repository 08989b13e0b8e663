"""Learning rates (and momenta) of PyTorch's schedules: python gen_lr_scheduler.py.

For each schedule the values before the first step and after each of 40 steps, of two groups with the initial learning rates 1 and 0.2. NoamLR, which PyTorch has not,
follows the formula of "Attention is all you need"."""
import json
import math
import warnings

import torch
from torch.optim import lr_scheduler as s
from torch.optim.swa_utils import SWALR

warnings.simplefilter("ignore")
STEPS = 40


def optimizer(kind="sgd"):
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": params[:1], "lr": 1.0}, {"params": params[1:], "lr": 0.2}]
    return torch.optim.SGD(groups, momentum=0.5) if kind == "sgd" else torch.optim.AdamW(groups)


metrics = [abs(math.sin(0.7 * i)) + (1.0 if i < 4 else 0.5 if i < 20 else 0.45) for i in range(STEPS)]
cases = {
    "step": lambda o: s.StepLR(o, 7, gamma=0.3),
    "multi_step": lambda o: s.MultiStepLR(o, [5, 5, 12], gamma=0.3),
    "constant": lambda o: s.ConstantLR(o, factor=0.25, total_iters=6),
    "linear": lambda o: s.LinearLR(o, start_factor=0.1, end_factor=0.8, total_iters=9),
    "linear_down": lambda o: s.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=12),
    "exponential": lambda o: s.ExponentialLR(o, 0.9),
    "polynomial": lambda o: s.PolynomialLR(o, total_iters=15, power=1.7),
    "cosine": lambda o: s.CosineAnnealingLR(o, 9, eta_min=0.05),
    "restarts": lambda o: s.CosineAnnealingWarmRestarts(o, 5, T_mult=2, eta_min=0.01),
    "restarts_equal": lambda o: s.CosineAnnealingWarmRestarts(o, 6),
    "lambda": lambda o: s.LambdaLR(o, [lambda t: 0.95**t, lambda t: 1 / (1 + t)]),
    "multiplicative": lambda o: s.MultiplicativeLR(o, lambda t: 0.9 if t % 3 == 0 else 1.0),
    "one_cycle": lambda o: s.OneCycleLR(o, max_lr=[2.0, 0.5], total_steps=STEPS),
    "one_cycle_linear": lambda o: s.OneCycleLR(o, max_lr=2.0, total_steps=STEPS + 3, pct_start=0.4, anneal_strategy="linear", three_phase=True,
                                               div_factor=10, final_div_factor=100),
    "one_cycle_adam": lambda o: s.OneCycleLR(o, max_lr=0.1, total_steps=STEPS, base_momentum=0.8, max_momentum=0.9),
    "cyclic": lambda o: s.CyclicLR(o, 0.1, 1.0, step_size_up=4, step_size_down=6),
    "cyclic_groups": lambda o: s.CyclicLR(o, [0.1, 0.01], [1.0, 0.3], step_size_up=4, step_size_down=6),
    "cyclic_halving": lambda o: s.CyclicLR(o, 0.1, 1.0, step_size_up=5, mode="triangular2", base_momentum=0.7, max_momentum=0.95),
    "cyclic_exponential": lambda o: s.CyclicLR(o, 0.1, 1.0, step_size_up=5, mode="exp_range", gamma=0.95, cycle_momentum=False),
    "swa": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=7),
    "swa_groups": lambda o: SWALR(o, swa_lr=[0.05, 0.4], anneal_epochs=7),
    "swa_linear": lambda o: SWALR(o, swa_lr=0.5, anneal_epochs=5, anneal_strategy="linear"),
    "swa_at_once": lambda o: SWALR(o, swa_lr=0.5, anneal_epochs=0),
    "chained": lambda o: s.ChainedScheduler([s.ConstantLR(o, factor=0.1, total_iters=4), s.ExponentialLR(o, 0.9)]),
    "chained_three": lambda o: s.ChainedScheduler([s.LinearLR(o, 0.2, 1.0, 5), s.StepLR(o, 8, 0.5), s.CosineAnnealingLR(o, 30)]),
    "sequential": lambda o: s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 5), s.CosineAnnealingLR(o, 35, eta_min=0.01)], [5]),
    "sequential_three": lambda o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.5, 20), s.ExponentialLR(o, 0.8), s.CosineAnnealingWarmRestarts(o, 4, 2), s.StepLR(o, 3, 0.5)], [6, 14, 30]),
    "sequential_lambda": lambda o: s.SequentialLR(o, [s.LambdaLR(o, lambda t: (t + 1) / 10), s.PolynomialLR(o, 20), s.MultiStepLR(o, [2, 4])], [10, 32]),
}
out = {"metrics": metrics, "torch": torch.__version__}


def record(name, o, values):
    for i, group in enumerate(o.param_groups):
        values.setdefault(f"lr{i}", []).append(group["lr"])
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        values.setdefault(f"momentum{i}", []).append(momentum)
    out[name] = values


for name, make in cases.items():
    o = optimizer("adam" if name.endswith("adam") else "sgd")
    scheduler, values = make(o), {}
    record(name, o, values)
    for _ in range(STEPS):
        o.step()
        scheduler.step()
        record(name, o, values)

plateaus = {
    "plateau": dict(factor=0.5, patience=2, threshold=1e-2),
    "plateau_max": dict(mode="max", factor=0.5, patience=1, threshold_mode="abs", threshold=0.1, cooldown=2),
    "plateau_floor": dict(factor=0.1, patience=0, min_lr=0.05, cooldown=1),
    "plateau_floors": dict(factor=0.1, patience=1, min_lr=[0.05, 0.002]),
    "plateau_abs": dict(factor=0.3, patience=3, threshold_mode="abs", threshold=0.05),
}
for name, options in plateaus.items():
    o = optimizer()
    scheduler, values = s.ReduceLROnPlateau(o, **options), {}
    record(name, o, values)
    for metric in metrics:
        o.step()
        scheduler.step(metric)
        record(name, o, values)

noam = [[base * 64**-0.5 * min((t + 1) ** -0.5, (t + 1) * 8**-1.5) for t in range(STEPS + 1)] for base in (1.0, 0.2)]
out["noam"] = {"lr0": noam[0], "lr1": noam[1]}
with open(__file__.replace("gen_lr_scheduler.py", "lr_scheduler.json"), "w") as f:
    json.dump(out, f)
