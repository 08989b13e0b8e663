"""Losses of fine-tuning on answers and preferences, by the formulas that TRL 1.16 documents, computed in PyTorch.

    python tests/golden/gen_align.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(0)
out = {}
B, T, V = 3, 6, 11
logits = torch.randn(2 * B, T, V, requires_grad=True)
reference = torch.randn(2 * B, T, V)
labels = torch.randint(0, V, (2 * B, T))
labels[:, :2] = -100
labels[1, 4:], labels[5, 3:] = -100, -100
out |= {"logits": logits.detach(), "reference": reference, "labels": labels.int()}


def log_probs(logits, labels):
    """Sums over the answers' tokens, as in TRL's DPO trainer."""
    shifted, labels = logits[:, :-1], labels[:, 1:].clone()
    counted = labels != -100
    labels[~counted] = 0
    each = torch.gather(shifted.log_softmax(-1), 2, labels.unsqueeze(2)).squeeze(2)
    return (each * counted).sum(-1)


def keep(name, loss):
    out[name] = loss.detach()
    out["grad." + name] = torch.autograd.grad(loss, logits, retain_graph=True)[0]


keep("sft", F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100))
policy, ref = log_probs(logits, labels), log_probs(reference, labels)
out["policy"], out["ref"] = policy.detach(), ref
pi = policy[:B] - policy[B:]
re = ref[:B] - ref[B:]
h = pi - re
beta = 0.3
keep("dpo", (-F.logsigmoid(beta * h)).mean())
keep("dpo_smooth", (-F.logsigmoid(beta * h) * (1 - 0.2) - F.logsigmoid(-beta * h) * 0.2).mean())
keep("hinge", torch.relu(1 - beta * h).mean())
keep("ipo", ((h - 1 / (2 * beta)) ** 2).mean())
out["chosen_rewards"] = (beta * (policy[:B] - ref[:B])).detach()
out["rejected_rewards"] = (beta * (policy[B:] - ref[B:])).detach()

rewards = torch.randn(2 * B, requires_grad=True)
margin = torch.rand(B)
out |= {"rewards": rewards.detach(), "margin": margin}
c, r = rewards[:B], rewards[B:]
for name, loss in {
    "reward": -F.logsigmoid(c - r).mean(),
    "reward_margin": -F.logsigmoid(c - r - margin).mean() + 0.01 * torch.mean((c + r) ** 2),
}.items():
    out[name] = loss.detach()
    out["grad." + name] = torch.autograd.grad(loss, rewards)[0]

path = Path(__file__).parent / "align.safetensors"
save_file({k: v.contiguous() for k, v in out.items()}, str(path), metadata={"torch": torch.__version__})
print(path.stat().st_size, "bytes")
