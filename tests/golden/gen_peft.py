"""Adapters written by PEFT around the small checkpoints of gen_transformers.py, with what the adapted models compute.

    python tests/golden/gen_peft.py          (in the repository's folder)

Each folder under tests/golden/peft/ is what `save_pretrained` writes (adapter_config.json and adapter_model.safetensors), plus expected.safetensors: inputs,
logits, and for some the gradients of the adapter's parameters (`grad.` and the parameter's name in the file).
"""

import json
import shutil
import sys
from pathlib import Path

import peft
import torch
import transformers as tf
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import save_file

BASES = Path("tests/golden/transformers")
OUT = Path("tests/golden/peft")


def base(name, cls=tf.AutoModelForCausalLM):
    return cls.from_pretrained(BASES / name).eval()


def redraw(model, seed=11):
    """Adapters that change much."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if not p.requires_grad:
                continue
            noise = torch.randn(p.shape, generator=g)
            if "magnitude" in name:
                p.mul_(1 + 0.2 * noise)
            elif "ia3" in name:
                p.copy_(1 + 0.4 * noise)
            elif "prompt" in name:
                p.copy_(0.7 * noise)
            else:
                p.add_(0.2 * noise)


def put(folder, tensors):
    out = {}
    for key, value in tensors.items():
        value = value.detach().contiguous().clone()
        out[key] = value.float() if value.is_floating_point() else value.to(torch.int32)
    meta = {"torch": torch.__version__, "transformers": tf.__version__, "peft": peft.__version__}
    save_file(out, str(folder / "expected.safetensors"), metadata=meta)


def tidy(folder):
    for readme in folder.rglob("README.md"):
        readme.unlink()
    print(folder.name, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) // 1024, "KiB")


def save(name, model, tensors):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    put(folder, tensors)
    tidy(folder)


def ids(rows, cols, seed=5, low=4, high=48):
    return torch.randint(low, high, (rows, cols), generator=torch.Generator().manual_seed(seed))


def gradients(model, logits, x):
    """Of the loss of the next token, by the names of the file."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    loss.backward()
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    # In the file a parameter has no adapter's name.
    short = lambda n: n.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
    return {"loss": loss.detach()} | {"grad." + short(n): g for n, g in named.items()}


def causal(name, base_name, config, grads=False):
    torch.manual_seed(0)
    model = get_peft_model(base(base_name), config).eval()
    redraw(model)
    x = ids(2, 7)
    logits = model(input_ids=x).logits
    expected = {"input_ids": x, "logits": logits}
    if grads:
        expected |= gradients(model, logits, x)
    save(name, model, expected)


def lora(**options):
    return LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8, **options})


def classify(name, base_name, config):
    torch.manual_seed(0)
    model = get_peft_model(base(base_name, tf.AutoModelForSequenceClassification), config).eval()
    redraw(model)
    x, mask = ids(2, 7), torch.ones(2, 7, dtype=torch.long)
    x[1, 5:], mask[1, 5:] = 0, 0
    logits = model(input_ids=x, attention_mask=mask).logits
    save(name, model, {"input_ids": x, "attention_mask": mask, "logits": logits})


def text_to_text(name):
    torch.manual_seed(0)
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, target_modules=["q", "v", "wo"])
    model = get_peft_model(base("t5", tf.AutoModelForSeq2SeqLM), config).eval()
    redraw(model)
    x, y = ids(2, 6), ids(2, 4, 6)
    save(name, model, {"input_ids": x, "decoder_input_ids": y, "logits": model(input_ids=x, decoder_input_ids=y).logits})


def several(name):
    """Two adapters, alone, together and combined."""
    torch.manual_seed(0)
    model = get_peft_model(base("llama2"), lora(target_modules=["q_proj", "v_proj"]))
    model.add_adapter("other", lora(target_modules=["q_proj", "down_proj"], lora_alpha=6))
    for i, adapter in enumerate(["default", "other"]):
        model.set_adapter(adapter)
        redraw(model, 20 + i)
    model.eval()
    x = ids(2, 7)
    expected = {"input_ids": x}
    run = lambda: model(input_ids=x).logits
    for adapter in ["default", "other"]:
        model.set_adapter(adapter)
        expected[adapter] = run()
    model.base_model.set_adapter(["default", "other"])
    expected["both"] = run()
    for how in ["linear", "cat"]:
        model.base_model.add_weighted_adapter(["default", "other"], [0.7, -0.4], how, combination_type=how)
        model.set_adapter(how)
        expected[how] = run()
        model.delete_adapter(how)
    model.set_adapter("default")
    save(name, model, expected)


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.conv2 = torch.nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=2)
        self.conv3 = torch.nn.Conv2d(8, 4, 1, bias=False)
        self.line = torch.nn.Conv1d(4, 6, 3, padding=1)
        self.head = torch.nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        x = torch.relu(self.conv3(x)).flatten(2)
        return self.head(torch.relu(self.line(x)).mean(-1))


def convolutions(name, **options):
    torch.manual_seed(3)
    plain = Convolutions().eval()
    weights = {"base." + k: v.clone() for k, v in plain.state_dict().items()}
    model = get_peft_model(plain, LoraConfig(r=4, lora_alpha=6, **options)).eval()
    redraw(model)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(8))
    save(name, model, weights | {"x": x, "y": model(x)})


def prompt(name, base_name, config):
    torch.manual_seed(0)
    model = get_peft_model(base(base_name), config)
    redraw(model)
    model.eval()
    x, mask = ids(2, 6), torch.ones(2, 6, dtype=torch.long)
    x[1, 4:], mask[1, 4:] = 0, 0
    logits = model(input_ids=x, attention_mask=mask).logits
    text = x[:1, :4]
    for _ in range(6):
        text = torch.cat([text, model(input_ids=text).logits[:, -1:].argmax(-1)], 1)
    expected = {"input_ids": x, "attention_mask": mask, "logits": logits, "greedy": text[:, 4:]}
    expected["grad.prompt_embeddings"] = torch.autograd.grad(logits[:, -6:].square().mean(), model.prompt_encoder.default.embedding.weight)[0]
    save(name, model, expected)


def main():
    causal("llama-lora", "llama2", lora(target_modules=["q_proj", "v_proj"]), grads=True)
    causal(
        "llama-all-linear",
        "llama2",
        lora(target_modules="all-linear", use_rslora=True, rank_pattern={"down_proj": 2, r"layers\.1\.self_attn\.[kv]_proj": 3}, alpha_pattern={"o_proj": 3}, lora_dropout=0.1),
    )
    causal("llama-dora", "llama2", lora(target_modules=["q_proj", "k_proj", "down_proj"], use_dora=True), grads=True)
    causal("llama-embedding", "llama2", lora(target_modules=["embed_tokens", "q_proj"]), grads=True)
    causal("llama-embedding-dora", "llama2", lora(target_modules=["embed_tokens", "o_proj"], use_dora=True))
    causal("llama-pissa", "llama2", lora(target_modules=["q_proj", "up_proj"], init_lora_weights="pissa"))
    causal("llama-olora", "llama2", lora(target_modules=["q_proj", "down_proj"], init_lora_weights="olora"))
    causal("mistral-layers", "mistral", lora(target_modules=["q_proj", "k_proj", "gate_proj"], exclude_modules=["k_proj"], layers_to_transform=[1], init_lora_weights="gaussian"))
    causal("qwen2-regex", "qwen2", lora(target_modules=r"model\.layers\.\d+\.(self_attn\.[ov]_proj|mlp\.up_proj)", modules_to_save=None))
    causal("llama-head", "llama2", lora(target_modules=["v_proj"], modules_to_save=["lm_head"]))
    # The head is tied to the table: it stays with the old one.
    causal("qwen2-table", "qwen2", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"]))
    # So that it has a copy of its own.
    causal("qwen2-head", "qwen2", lora(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    causal("qwen2-both", "qwen2", lora(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]))
    causal("gpt2-lora", "gpt2", lora(target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True, bias="all"))
    causal("gpt2-dora", "gpt2", lora(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, use_dora=True), grads=True)
    causal("falcon-lora", "falcon", lora(target_modules=["query_key_value", "dense"]))
    classify("bert-classify", "bert-classify", LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], modules_to_save=["classifier"], bias="lora_only"))
    classify("bert-bias", "bert-classify", LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "output.dense"], lora_bias=True))
    text_to_text("t5-lora")
    several("llama-several")
    convolutions("conv-lora", target_modules=["conv1", "conv2", "conv3", "line", "head"])
    convolutions("conv-dora", target_modules=["conv1", "conv3", "line"], use_dora=True)
    causal("llama-ia3", "llama2", IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]), grads=True)
    causal("gpt2-ia3", "gpt2", IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True))
    prompt("gpt2-prompt", "gpt2", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    prompt("llama-prompt", "llama2", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    prompt("gpt2-prefix", "gpt2", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    prompt("mistral-prefix", "mistral", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    versions = {"torch": torch.__version__, "transformers": tf.__version__, "peft": peft.__version__}
    json.dump(versions, open(OUT / "versions.json", "w"))


if __name__ == "__main__":
    main()
