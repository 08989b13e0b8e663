"""Ten-step trajectories of PyTorch's optimizers: python gen_optim.py (its versions stand in the file's metadata).

A linear model with a bias on fixed data, mean squared error. `<name>.<step>.weight` is the weight after that step. PyTorch has no LAMB and no Lion: these follow the
formulas of their papers, in float64 with NumPy. Muon runs as PyTorch has it (`muon…`, in bf16) and with the same iteration in f32 (`exact_muon…`)."""
import numpy
import torch
from safetensors.torch import save_file

torch.manual_seed(0)
x, y = torch.randn(16, 5), torch.randn(16, 3)
w0, b0 = torch.randn(3, 5) * 0.5, torch.randn(3)
out = {"x": x, "y": y, "weight": w0, "bias": b0}
o = torch.optim

configs = {
    "sgd": lambda p: o.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: o.SGD(p, lr=0.1, momentum=0.9),
    "sgd_dampening": lambda p: o.SGD(p, lr=0.1, momentum=0.9, dampening=0.4),
    "sgd_nesterov": lambda p: o.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
    "adam": lambda p: o.Adam(p, lr=0.05),
    "adam_decay": lambda p: o.Adam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "adam_amsgrad": lambda p: o.Adam(p, lr=0.05, betas=(0.8, 0.5), amsgrad=True),
    "adamw": lambda p: o.AdamW(p, lr=0.05),
    "adamw_decay": lambda p: o.AdamW(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.3),
    "adamw_amsgrad": lambda p: o.AdamW(p, lr=0.05, betas=(0.8, 0.5), amsgrad=True),
    "nadam": lambda p: o.NAdam(p, lr=0.05),
    "nadam_decay": lambda p: o.NAdam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, momentum_decay=0.02),
    "nadam_decoupled": lambda p: o.NAdam(p, lr=0.05, weight_decay=0.3, decoupled_weight_decay=True),
    "radam": lambda p: o.RAdam(p, lr=0.05),
    "radam_decay": lambda p: o.RAdam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "radam_decoupled": lambda p: o.RAdam(p, lr=0.05, weight_decay=0.3, decoupled_weight_decay=True),
    "adagrad": lambda p: o.Adagrad(p, lr=0.1),
    "adagrad_decay": lambda p: o.Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.2, eps=1e-6),
    "rmsprop": lambda p: o.RMSprop(p, lr=0.01),
    "rmsprop_momentum": lambda p: o.RMSprop(p, lr=0.01, alpha=0.9, momentum=0.8, weight_decay=0.1, eps=1e-6),
    "rmsprop_centered": lambda p: o.RMSprop(p, lr=0.01, alpha=0.9, centered=True),
    "rmsprop_all": lambda p: o.RMSprop(p, lr=0.01, alpha=0.9, centered=True, momentum=0.8),
    "adadelta": lambda p: o.Adadelta(p, lr=1.0),
    "adadelta_decay": lambda p: o.Adadelta(p, lr=0.5, rho=0.8, eps=1e-4, weight_decay=0.1),
    # Up the gradient.
    "sgd_maximize": lambda p: o.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.05, maximize=True),
    "adam_maximize": lambda p: o.Adam(p, lr=0.05, weight_decay=0.1, amsgrad=True, maximize=True),
    "adamw_maximize": lambda p: o.AdamW(p, lr=0.05, weight_decay=0.3, maximize=True),
    "nadam_maximize": lambda p: o.NAdam(p, lr=0.05, weight_decay=0.1, maximize=True),
    "radam_maximize": lambda p: o.RAdam(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, maximize=True),
    "adagrad_maximize": lambda p: o.Adagrad(p, lr=0.1, weight_decay=0.1, maximize=True),
    "rmsprop_maximize": lambda p: o.RMSprop(p, lr=0.01, centered=True, momentum=0.8, weight_decay=0.1, maximize=True),
    "adadelta_maximize": lambda p: o.Adadelta(p, lr=0.5, weight_decay=0.1, maximize=True),
    # Two groups.
    "groups": lambda p: o.AdamW([{"params": p[:1]}, {"params": p[1:], "lr": 0.2, "weight_decay": 0.0}], lr=0.05, weight_decay=0.3),
}


def train(name, make, steps=10):
    w, b = w0.clone().requires_grad_(), b0.clone().requires_grad_()
    optimizers = make([w, b])
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    for step in range(1, steps + 1):
        if step == 6:  # the learning rate is no constant
            for group in [g for opt in optimizers for g in opt.param_groups]:
                group["lr"] *= 0.5
        loss = (torch.nn.functional.linear(x, w, b) - y).square().mean()
        for opt in optimizers:
            opt.zero_grad()
        loss.backward()
        for opt in optimizers:
            opt.step()
        out[f"{name}.{step}.weight"] = w.detach().clone()
        out[f"{name}.{step}.bias"] = b.detach().clone()


for name, make in configs.items():
    train(name, make)

muons = {
    "muon": lambda p: [o.Muon(p[:1], lr=0.05), o.SGD(p[1:], lr=0.1)],
    "muon_plain": lambda p: [o.Muon(p[:1], lr=0.05, nesterov=False, momentum=0.8, weight_decay=0.0, ns_steps=3), o.SGD(p[1:], lr=0.1)],
    "muon_rms": lambda p: [o.Muon(p[:1], lr=0.05, adjust_lr_fn="match_rms_adamw"), o.SGD(p[1:], lr=0.1)],
    "muon_unclamped": lambda p: [o.Muon(p[:1], lr=0.05, adjust_lr_fn="spectral_unclamped"), o.SGD(p[1:], lr=0.1)],
}
for name, make in muons.items():
    train(name, make)


def exact_orthogonalisation(grad, coefficients, steps, eps):
    a, b, c = coefficients
    m = grad.double()
    tall = m.shape[0] > m.shape[1]
    m = m.T if tall else m
    m = m / max(m.norm(), eps)
    for _ in range(steps):
        gram = m @ m.T
        m = a * m + (b * gram + c * gram @ gram) @ m
    return (m.T if tall else m).float()


import torch.optim._muon as muon_module  # noqa: E402

muon_module._zeropower_via_newtonschulz = exact_orthogonalisation
for name, make in muons.items():
    train("exact_" + name, make)


def by_hand(name, rule):
    """`rule(w, g, state, t, lr)`, in float64."""
    data = [t.double().numpy() for t in (x, y)]
    params = [w0.double().numpy().copy(), b0.double().numpy().copy()]
    states = [{}, {}]
    lr = rule.lr
    for step in range(1, 11):
        lr = rule.lr if step < 6 else rule.lr * 0.5
        residual = data[0] @ params[0].T + params[1] - data[1]
        grads = [2 * residual.T @ data[0] / residual.size, 2 * residual.sum(0) / residual.size]
        for i in range(2):
            params[i] = rule(params[i], grads[i], states[i], step, lr)
        for part, value in zip(["weight", "bias"], params):
            out[f"{name}.{step}.{part}"] = torch.from_numpy(value).float()


class Lamb:
    def __init__(self, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01):
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay

    def __call__(self, w, g, state, t, lr):
        b1, b2 = self.betas
        m = state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
        v = state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
        r = (m / (1 - b1**t)) / (numpy.sqrt(v / (1 - b2**t)) + self.eps)
        u = r + self.weight_decay * w
        norms = numpy.linalg.norm(w), numpy.linalg.norm(u)
        trust = norms[0] / norms[1] if norms[0] > 0 and norms[1] > 0 else 1.0
        return w - lr * trust * u


class Lion:
    def __init__(self, lr, betas=(0.9, 0.99), weight_decay=0.0):
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay

    def __call__(self, w, g, state, t, lr):
        b1, b2 = self.betas
        m = state.get("m", numpy.zeros_like(w))
        u = numpy.sign(b1 * m + (1 - b1) * g)
        state["m"] = b2 * m + (1 - b2) * g
        return w - lr * (u + self.weight_decay * w)


by_hand("lamb", Lamb(0.05))
by_hand("lamb_decay", Lamb(0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.2))
by_hand("lion", Lion(0.01))
by_hand("lion_decay", Lion(0.01, betas=(0.95, 0.8), weight_decay=0.5))

# L-BFGS: on the linear model, and in Rosenbrock's valley; in float64, for its steps multiply what rounding leaves (in float32 by a thousand at the fifth).
for name, options in {
    "lbfgs": dict(lr=0.3, max_iter=4),
    "lbfgs_wolfe": dict(lr=1.0, max_iter=3, line_search_fn="strong_wolfe", history_size=2),
}.items():
    w, b = w0.double().requires_grad_(), b0.double().requires_grad_()
    optimizer = o.LBFGS([w, b], **options)

    def closure():
        optimizer.zero_grad()
        loss = (torch.nn.functional.linear(x.double(), w, b) - y.double()).square().mean()
        loss.backward()
        return loss

    for step in range(1, 11):
        optimizer.step(closure)
        out[f"{name}.{step}.weight"], out[f"{name}.{step}.bias"] = w.detach().clone(), b.detach().clone()

for name, options in {
    "valley": dict(lr=1e-3, max_iter=6),
    "valley_wolfe": dict(lr=1.0, max_iter=4, line_search_fn="strong_wolfe"),
}.items():
    p = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = o.LBFGS([p], **options)

    def closure():
        optimizer.zero_grad()
        loss = (1 - p[0]).square() + 100 * (p[1] - p[0].square()).square()
        loss.backward()
        return loss

    losses = []
    for step in range(1, 11):
        losses.append(optimizer.step(closure).item())
        out[f"{name}.{step}.point"] = p.detach().clone()
    out[f"{name}.losses"] = torch.tensor(losses, dtype=torch.float64)

# The average of weights, plain and exponential, with running statistics; and the statistics of an average.
for name, kwargs in {
    "swa": {},
    "swa_buffers": dict(use_buffers=True),
    "ema": dict(multi_avg_fn=o.swa_utils.get_ema_multi_avg_fn(0.8)),
}.items():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
    if name == "swa":
        for key, t in model.state_dict().items():
            out[f"average.start.{key}"] = t.clone()
    averaged = o.swa_utils.AveragedModel(model, **kwargs)
    optimizer = o.SGD(model.parameters(), lr=0.1)
    for step in range(1, 6):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(model)
        for key, t in averaged.module.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                out[f"{name}.{step}.{key}"] = t.clone()
    if name == "swa":
        o.swa_utils.update_bn([x[:6], x[6:11], x[11:]], averaged)
        for key, t in averaged.module.state_dict().items():
            out[f"update_bn.{key}"] = t.clone()

versions = {"torch": torch.__version__, "numpy": numpy.__version__}
save_file({k: v.contiguous() for k, v in out.items()}, __file__.replace("gen_optim.py", "optim.safetensors"), metadata=versions)
