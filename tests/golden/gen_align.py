"""Golden values of fornax::align from PyTorch and transformers.

    python tests/golden/gen_align.py

writes tests/golden/align.safetensors (the losses alone, forward and backward; the format is that of gen_losses.py, the formulas are TRL 1.16's, computed in f64)
and tests/golden/align_models.safetensors: what the checkpoints of gen_transformers.py give through them. tests/all/align.rs makes the same calls.
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers as tf
from safetensors.torch import save_file

HERE = Path(__file__).parent
torch.manual_seed(17)
found = {}


def case(name, f, diff, **inputs):
    args = {}
    for key, t in inputs.items():
        if t.is_floating_point():
            t = t.float().double()
            if key in diff:
                t.requires_grad_()
        args[key] = t
    outs = f(**args)
    total = 0
    for key, y in outs.items():
        found[f"{name}.out.{key}"] = y.detach()
        if y.requires_grad:
            cot = torch.randn(y.shape).float().double()
            found[f"{name}.cot.{key}"] = cot
            total = total + (y * cot).sum()
    total.backward()
    for key, t in args.items():
        found[f"{name}.in.{key}"] = t.detach()
        if key in diff:
            found[f"{name}.grad.{key}"] = t.grad


def sft(x, labels):
    return F.cross_entropy(x[:, :-1].reshape(-1, x.shape[-1]), labels[:, 1:].reshape(-1).long(), ignore_index=-100)


def sums(x, labels):
    logp = F.log_softmax(x[:, :-1], -1)
    shifted = labels[:, 1:].long()
    counts = shifted != -100
    each = logp.gather(2, shifted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (each * counts).sum(1)


labels = torch.randint(0, 11, (3, 7), dtype=torch.int32)
labels[0, :3] = -100
labels[1, 5:] = -100
labels[2] = -100
labels[2, 6] = 4
case("sft", lambda x, labels: {"y": sft(x, labels)}, ["x"], x=3 * torch.randn(3, 7, 11), labels=labels)
case("sums", lambda x, labels: {"y": sums(x, labels)}, ["x"], x=3 * torch.randn(3, 7, 11), labels=labels)


def dpo(beta, eps, robust):
    def f(c, r, rc, rr):
        scaled = beta * ((c - r) - (rc - rr))
        right, flipped = -(1 - eps) * F.logsigmoid(scaled), -eps * F.logsigmoid(-scaled)
        losses = (right - flipped) / (1 - 2 * eps) if robust else right + flipped
        rewards = {"chosen": (beta * (c - rc)).detach(), "rejected": (beta * (r - rr)).detach()}
        return {"y": losses.mean(), **rewards}

    return f


def logps(n=6):
    return -30 * torch.rand(n) - 1


for name, beta, eps, robust in [("dpo", 0.1, 0.0, False), ("dpo_smooth", 0.3, 0.1, False), ("dpo_robust", 0.5, 0.2, True)]:
    c, r, rc, rr = (logps() for _ in range(4))
    # Far away on both sides: the loss is linear there, or nothing.
    c[0], r[1] = -900.0, -900.0
    case(name, dpo(beta, eps, robust), ["c", "r"], c=c, r=r, rc=rc, rr=rr)


def reward(center, margin):
    def f(c, r, m=None):
        y = -F.logsigmoid(c - r - (m if margin else 0)).mean()
        return {"y": y + center * ((c + r) ** 2).mean()}

    return f


case("reward", reward(0.0, False), ["c", "r"], c=3 * torch.randn(5), r=3 * torch.randn(5))
case("reward_center", reward(0.01, False), ["c", "r"], c=3 * torch.randn(5), r=3 * torch.randn(5))
case("reward_margin", reward(0.1, True), ["c", "r"], c=3 * torch.randn(5), r=3 * torch.randn(5), m=torch.rand(5))


def save(tensors, file):
    out = {k: (t.float() if t.is_floating_point() else t.to(torch.int32)).contiguous().clone() for k, t in tensors.items()}
    save_file(out, str(HERE / file), metadata={"torch": torch.__version__, "transformers": tf.__version__, "python": sys.version.split()[0]})
    print(file, os.path.getsize(HERE / file) // 1024, "KiB")


save(found, "align.safetensors")

# Through models.
models = {}


def folder(name):
    return str(HERE / "transformers" / name)


def pad(rows, value):
    width = max(len(r) for r in rows)
    return torch.tensor([r + [value] * (width - len(r)) for r in rows])


# Prompt and completion; tests/all/align.rs has the same.
SAMPLES = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 14]), ([15, 16, 17, 18], [19]), ([20, 21], [22, 23, 24])]
ids = pad([p + c for p, c in SAMPLES], 0)
mask = pad([[1] * len(p + c) for p, c in SAMPLES], 0)
labels = pad([[-100] * len(p) + c for p, c in SAMPLES], -100)
for name in ["gpt2", "llama2", "mistral", "qwen2"]:
    model = tf.AutoModelForCausalLM.from_pretrained(folder(name)).eval()
    out = model(input_ids=ids, attention_mask=mask, labels=labels)
    out.loss.backward()
    models[f"{name}.sft"] = out.loss
    models[f"{name}.sums"] = sums(out.logits, labels)
    models[f"{name}.grad"] = model.get_input_embeddings().weight.grad

# The chosen and the rejected completion of a prompt. The policy is GPT-2, the reference Llama: they know the same tokens.
PAIRS = [([5, 6, 7], [8, 9], [10]), ([11], [12, 13, 14], [15, 16]), ([17, 18], [19], [20, 21, 22, 23])]
rows = [p + c for p, c, _ in PAIRS] + [p + r for p, _, r in PAIRS]
ids, mask = pad(rows, 0), pad([[1] * len(r) for r in rows], 0)
labels = pad([[-100] * len(p) + c for p, c, _ in PAIRS] + [[-100] * len(p) + r for p, _, r in PAIRS], -100)
policy = tf.AutoModelForCausalLM.from_pretrained(folder("gpt2")).eval()
reference = tf.AutoModelForCausalLM.from_pretrained(folder("llama2")).eval()
c, r = sums(policy(input_ids=ids, attention_mask=mask).logits, labels).chunk(2)
with torch.no_grad():
    rc, rr = sums(reference(input_ids=ids, attention_mask=mask).logits, labels).chunk(2)
out = dpo(0.1, 0.0, False)(c, r, rc, rr)
out["y"].backward()
models["dpo.loss"] = out["y"]
models["dpo.rewards"] = torch.cat([out["chosen"], out["rejected"]])
models["dpo.grad"] = policy.transformer.h[0].attn.c_attn.weight.grad

torch.manual_seed(3)
model = tf.GPT2ForSequenceClassification.from_pretrained(folder("gpt2"), num_labels=1, pad_token_id=0).eval()
with torch.no_grad():
    model.score.weight.normal_()
c, r = model(input_ids=ids, attention_mask=mask).logits.squeeze(1).chunk(2)
y = reward(0.01, False)(c, r)["y"]
y.backward()
models["reward.score"] = model.score.weight
models["reward.rewards"] = torch.cat([c, r])
models["reward.loss"] = y
models["reward.grad"] = model.transformer.h[0].attn.c_attn.weight.grad
models["reward.gradscore"] = model.score.weight.grad
save({k: t.detach() for k, t in models.items()}, "align_models.safetensors")
