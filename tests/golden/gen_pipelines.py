"""What transformers' pipelines make of the small checkpoints of gen_transformers.py, with a tokenizer of 48 word pieces.

    python tests/golden/gen_pipelines.py
"""

import json
from pathlib import Path

import transformers as tf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HERE = Path(__file__).parent
BASES = HERE / "transformers"
OUT = HERE / "pipelines"
PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat dog sat on mat and a b c d e f g h ##a ##b ##c ##d ##e ##s ##t ##ting ##er new york ada love ##lace lon ##don lived in saw . , old big ##gest house garden , !"
TEXTS = ["the cat sat on the mat.", "ada lovelace lived in london", "sitting dogs saw new york, and the biggest house!", "zzz the ##ab abcab fecund a b"]
MASKED = ["the [MASK] sat on the mat.", "[MASK] lovelace lived in [MASK]", "the bigg[MASK]"]


def tokenizer():
    pieces = list(dict.fromkeys(PIECES.split()))
    assert len(pieces) <= 48, len(pieces)
    t = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    t.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    OUT.mkdir(exist_ok=True)
    t.save(str(OUT / "tokenizer.json"))
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    return tf.PreTrainedTokenizerFast(tokenizer_object=t, model_max_length=20, **names)


def main():
    t = tokenizer()
    out = {"transformers": tf.__version__, "texts": TEXTS, "masked": MASKED}
    model = tf.AutoModelForSequenceClassification.from_pretrained(BASES / "bert-classify")
    out["classes"] = {}
    for problem in ["", "regression", "single_label_classification", "multi_label_classification"]:
        model.config.problem_type = problem or None
        out["classes"][problem] = tf.pipeline("text-classification", model=model, tokenizer=t, top_k=None)(TEXTS)
    model = tf.AutoModelForTokenClassification.from_pretrained(BASES / "bert-ner")
    out["entities"] = {}
    for how in ["simple", "first", "average", "max"]:
        found = tf.pipeline("token-classification", model=model, tokenizer=t, aggregation_strategy=how)(TEXTS)
        out["entities"][how] = [[{**e, "score": float(e["score"])} for e in row] for row in found]
    model = tf.AutoModelForMaskedLM.from_pretrained(BASES / "bert-mlm")
    fill = tf.pipeline("fill-mask", model=model, tokenizer=t, top_k=3)
    out["filled"] = [rows if isinstance(rows[0], list) else [rows] for rows in (fill(m) for m in MASKED)]
    (OUT / "expected.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(out["entities"], out["filled"])


if __name__ == "__main__":
    main()
