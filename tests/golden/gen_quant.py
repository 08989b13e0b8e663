"""Quantised weights as bitsandbytes makes them (on the CPU), and what it multiplies with them: quant.safetensors. And a tiny Llama that
transformers has quantised to NF4 with double quantisation, transformers/llama-nf4, and to 8 bits, transformers/llama-int8.

    python tests/golden/gen_quant.py
"""

import json
import shutil
from pathlib import Path

import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch
import transformers as tf
from gen_transformers import ROOT, VOCAB, ids, redraw
from safetensors.torch import save_file

HERE = Path(__file__).parent


def nf4(out, name, w, x, block=64, double=False):
    codes, state = F.quantize_4bit(w, quant_type="nf4", blocksize=block, compress_statistics=double)
    out[f"{name}.w"], out[f"{name}.codes"] = w.float(), codes
    for k, v in state.as_dict(packed=True).items():
        out[f"{name}.{k.split('.')[0]}"] = v
    # The state's dtype is that of the weight; what follows is in f32.
    state.dtype = torch.float32
    dense = F.dequantize_4bit(codes, state)
    out[f"{name}.dense"], out[f"{name}.x"], out[f"{name}.y"] = dense, x, x @ dense.T


def main():
    torch.manual_seed(0)
    out = {}
    # Scales that differ by rows; a block of zeros.
    w = torch.randn(40, 512) * 0.02 * (0.1 + torch.rand(40, 1))
    w[3, 64:128] = 0
    nf4(out, "plain", w[:6, :128].contiguous(), torch.randn(3, 128))
    nf4(out, "double", w, torch.randn(2, 512), double=True)
    nf4(out, "block128", w[:4].contiguous(), torch.randn(2, 512), block=128)
    # Blocks that cross rows, the last one short, the number of elements odd.
    nf4(out, "odd", torch.randn(5, 33) * 0.02, torch.randn(2, 33))
    nf4(out, "short", torch.randn(6, 80) * 0.02, torch.randn(2, 80), double=True)
    nf4(out, "bf16", (torch.randn(4, 128) * 0.02).bfloat16(), torch.randn(2, 128))
    layer = bnb.nn.Linear8bitLt(48, 10, has_fp16_weights=False)
    w8 = torch.randn(10, 48) * 0.02
    layer.load_state_dict({"weight": w8, "bias": torch.randn(10)})
    layer.to("cpu")
    state = layer.state_dict()
    dense = torch.ops.bitsandbytes.int8_vectorwise_dequant(state["weight"], state["SCB"])
    x = torch.randn(3, 48)
    out |= {"int8.w": w8, "int8.codes": state["weight"].view(torch.uint8), "int8.scale": state["SCB"], "int8.dense": dense, "int8.x": x, "int8.y": x @ dense.T}
    out["map"] = F.create_dynamic_map()
    out = {k: v.detach().clone().contiguous() for k, v in out.items()}
    versions = {"torch": torch.__version__, "bitsandbytes": bnb.__version__, "transformers": tf.__version__}
    save_file(out, str(HERE / "quant.safetensors"), metadata=versions)

    config = tf.LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0, attention_bias=True,
    )
    torch.manual_seed(0)
    dense = redraw(tf.LlamaForCausalLM(config), 0.1)
    base = ROOT / "llama-dense"
    dense.save_pretrained(base)
    four = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
    for name, how in [("llama-nf4", four), ("llama-int8", tf.BitsAndBytesConfig(load_in_8bit=True))]:
        model = tf.AutoModelForCausalLM.from_pretrained(base, quantization_config=how, dtype=torch.float32, device_map="cpu").eval()
        folder = ROOT / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        # Expected: the dense model with the weights that the codes stand for. (bitsandbytes rounds the inputs of 8-bit products, too; we do not.)
        twin = tf.LlamaForCausalLM.from_pretrained(base).eval()
        for path, layer in model.named_modules():
            if isinstance(layer, bnb.nn.Linear4bit):
                value = F.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            elif isinstance(layer, bnb.nn.Linear8bitLt):
                state = layer.state_dict()
                value = torch.ops.bitsandbytes.int8_vectorwise_dequant(state["weight"], state["SCB"])
            else:
                continue
            twin.get_submodule(path).weight.data = value.float()
        x = ids(2, 9, 1)
        with torch.no_grad():
            expected = {"input_ids": x.to(torch.int32), "logits": twin(x).logits.contiguous(), "dense_logits": dense(x).logits.contiguous()}
            expected["own_logits"] = model(x).logits.float().contiguous()
        save_file(expected, str(folder / "expected.safetensors"), metadata=versions)
        print(name, {f.name: f.stat().st_size for f in folder.iterdir()}, (expected["own_logits"] - expected["logits"]).abs().max(), expected["logits"].abs().max())
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
