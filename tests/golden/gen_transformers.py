"""Small random checkpoints of every transformer family, written by Hugging Face's transformers, with what it computes from them.

    python tests/golden/gen_transformers.py

Each folder under tests/golden/transformers/ is what `save_pretrained` writes (config.json and model.safetensors, or shards and their index), plus
expected.safetensors: inputs, logits, hidden states, greedy and beam-searched tokens. Weights are drawn large enough that the logits of a token differ by
much more than rounding does.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import save_file

ROOT = Path(__file__).parent / "transformers"
VOCAB = 48


def redraw(model, std=0.25):
    """Larger weights than the initialisation's, none of them at its default."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=g)
            if "norm" in name.lower() or "ln_" in name:
                p.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
            elif name.endswith("bias") and p.dim() == 1:
                p.copy_(0.1 * noise)
            else:
                p.copy_(std * noise)
    return model.eval()


def save(name, model, expected, **options):
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **options)
    (folder / "generation_config.json").unlink(missing_ok=True)
    out = {}
    for key, value in expected.items():
        value = value.detach().contiguous()
        out[key] = value.to(torch.int32) if not value.is_floating_point() else value.float()
    meta = {"torch": torch.__version__, "transformers": tf.__version__}
    save_file(out, str(folder / "expected.safetensors"), metadata=meta)
    print(name, sum(f.stat().st_size for f in folder.iterdir()) // 1024, "KiB", sorted(f.name for f in folder.iterdir()))


def ids(rows, cols, seed, low=4):
    return torch.randint(low, VOCAB, (rows, cols), generator=torch.Generator().manual_seed(seed))


def encoder(name, cls, config, types=False):
    torch.manual_seed(0)
    model = redraw(cls(config))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0]])
    x = ids(2, 9, 1)
    x[1, 6:] = config.pad_token_id
    inputs = {"input_ids": x, "attention_mask": mask}
    expected = {"input_ids": x, "attention_mask": mask}
    if types:
        inputs["token_type_ids"] = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0, 0]])
        expected["token_type_ids"] = inputs["token_type_ids"]
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    expected["hidden_states"] = torch.stack(out.hidden_states)
    for key in ["logits", "start_logits", "end_logits", "pooler_output"]:
        if getattr(out, key, None) is not None:
            expected[key] = getattr(out, key)
    save(name, model, expected)


def generations(model, expected, prompt, mask, decoder_only):
    """Greedy and beam-searched tokens, with and without an end."""

    def run(**options):
        with torch.no_grad():
            return model.generate(prompt, attention_mask=mask, do_sample=False, pad_token_id=0, **options)

    start = prompt.shape[1] if decoder_only else 1
    free = run(max_new_tokens=12, eos_token_id=None)
    expected["greedy"] = free[:, start:]
    # An end that the first row reaches in its middle.
    eos = int(free[0, start + 5])
    expected["eos"] = torch.tensor([eos])
    expected["greedy_eos"] = run(max_new_tokens=12, eos_token_id=eos)[:, start:]
    expected["greedy_repetition"] = run(max_new_tokens=12, eos_token_id=None, repetition_penalty=1.5)[:, start:]
    for key, options in {
        "beam": {"num_beams": 3},
        "beam_long": {"num_beams": 4, "length_penalty": 2.0},
        "beam_short": {"num_beams": 3, "length_penalty": -1.0},
        "beam_early": {"num_beams": 3, "early_stopping": True},
    }.items():
        expected[key] = run(max_new_tokens=10, eos_token_id=eos, **options)[:, start:]


def causal(name, cls, config, std=0.25, **options):
    torch.manual_seed(0)
    model = redraw(cls(config), std)
    x = ids(2, 9, 2)
    with torch.no_grad():
        out = model(input_ids=x, output_hidden_states=True)
    prompt, mask = ids(2, 7, 3), torch.ones(2, 7, dtype=torch.long)
    prompt[1, :3], mask[1, :3] = 0, 0
    expected = {"input_ids": x, "hidden_states": torch.stack(out.hidden_states), "logits": out.logits, "prompt": prompt, "mask": mask}
    generations(model, expected, prompt, mask, True)
    save(name, model, expected, **options)


def seq2seq(name, config):
    torch.manual_seed(0)
    model = redraw(tf.T5ForConditionalGeneration(config), 0.3)
    x, mask = ids(2, 9, 4), torch.ones(2, 9, dtype=torch.long)
    x[1, 6:], mask[1, 6:] = 0, 0
    y = ids(2, 5, 5)
    with torch.no_grad():
        out = model(input_ids=x, attention_mask=mask, decoder_input_ids=y, output_hidden_states=True)
    expected = {
        "input_ids": x,
        "attention_mask": mask,
        "decoder_input_ids": y,
        "encoder_hidden_states": torch.stack(out.encoder_hidden_states),
        "hidden_states": torch.stack(out.decoder_hidden_states),
        "logits": out.logits,
    }
    generations(model, expected, x, mask, False)
    save(name, model, expected)


def main():
    bert = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=20, pad_token_id=0)
    encoder("bert", tf.BertModel, tf.BertConfig(**bert), types=True)
    encoder("bert-mlm", tf.BertForMaskedLM, tf.BertConfig(**bert), types=True)
    encoder("bert-classify", tf.BertForSequenceClassification, tf.BertConfig(**bert, num_labels=3), types=True)
    encoder("bert-ner", tf.BertForTokenClassification, tf.BertConfig(**bert, id2label={0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}), types=True)
    encoder("bert-qa", tf.BertForQuestionAnswering, tf.BertConfig(**bert), types=True)
    encoder("bert-nsp", tf.BertForNextSentencePrediction, tf.BertConfig(**bert), types=True)
    roberta = dict(bert, pad_token_id=1, type_vocab_size=1, hidden_act="gelu")
    encoder("roberta-mlm", tf.RobertaForMaskedLM, tf.RobertaConfig(**roberta))
    encoder("roberta-classify", tf.RobertaForSequenceClassification, tf.RobertaConfig(**roberta, num_labels=3))
    distil = dict(vocab_size=VOCAB, dim=16, n_layers=2, n_heads=4, hidden_dim=24, max_position_embeddings=20, pad_token_id=0)
    encoder("distilbert-mlm", tf.DistilBertForMaskedLM, tf.DistilBertConfig(**distil))
    encoder("distilbert-classify", tf.DistilBertForSequenceClassification, tf.DistilBertConfig(**distil, num_labels=3))

    ends = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    sizes = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, num_labels=3, **ends)
    encoder("gpt2-classify", tf.GPT2ForSequenceClassification, tf.GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=16, n_layer=2, n_head=4, num_labels=3, **ends))
    encoder("qwen2-classify", tf.Qwen2ForSequenceClassification, tf.Qwen2Config(**sizes, intermediate_size=24, num_key_value_heads=2))
    encoder("falcon-classify", tf.FalconForSequenceClassification, tf.FalconConfig(**sizes))
    causal("gpt2", tf.GPT2LMHeadModel, tf.GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=16, n_layer=2, n_head=4, **ends))
    llama = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, **ends)
    causal("llama2", tf.LlamaForCausalLM, tf.LlamaConfig(**llama, num_key_value_heads=4))
    scaling = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16, rope_theta=500.0)
    # Heads of 8, so that some wavelengths lie in each of the three ranges.
    causal("llama3", tf.LlamaForCausalLM, tf.LlamaConfig(**llama, head_dim=8, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=scaling))
    causal("mistral", tf.MistralForCausalLM, tf.MistralConfig(**llama, num_key_value_heads=2, sliding_window=5))
    causal("qwen2", tf.Qwen2ForCausalLM, tf.Qwen2Config(**llama, num_key_value_heads=2, tie_word_embeddings=True), max_shard_size="8KB")
    falcon = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, **ends)
    causal("falcon", tf.FalconForCausalLM, tf.FalconConfig(**falcon))
    causal("falcon-new", tf.FalconForCausalLM, tf.FalconConfig(**falcon, new_decoder_architecture=True, num_kv_heads=2))
    causal("falcon-alibi", tf.FalconForCausalLM, tf.FalconConfig(**falcon, alibi=True, multi_query=False, parallel_attn=False, bias=True))
    t5 = dict(vocab_size=VOCAB, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    seq2seq("t5", tf.T5Config(**t5))
    seq2seq("t5-gated", tf.T5Config(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False))
    json.dump({"torch": torch.__version__, "transformers": tf.__version__}, open(ROOT / "versions.json", "w"))


if __name__ == "__main__":
    main()
