"""Loads adapters that Fornax saved into PEFT, and compares what the adapted models compute.

    FORNAX_PEFT_OUT=out/peft cargo test --all-features --test all lora::what_we_save_we_load
    python tests/golden/check_peft.py out/peft          (in the repository's folder)
"""

import json
import sys
import warnings
from pathlib import Path

import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import load_file

warnings.simplefilter("ignore")
failed = False
for folder in sorted(f for f in Path(sys.argv[1]).iterdir() if f.is_dir()):
    config = json.loads((folder / "adapter_config.json").read_text())
    if config["peft_type"] == "BOTTLENECK":
        print(f"{folder.name}: no type of PEFT's")
        continue
    model = tf.AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    expected = load_file(folder / "expected.safetensors")
    # PEFT warns about keys that are missing, and goes on.
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, folder).eval()
    missing = [str(w.message) for w in seen if "missing" in str(w.message).lower() or "unexpected" in str(w.message).lower()]
    with torch.no_grad():
        logits = adapted(input_ids=expected["input_ids"].long()).logits
    off = (logits - expected["logits"]).abs().max() / expected["logits"].abs().max()
    good = bool(off < 1e-4) and not missing
    failed |= not good
    print(f"{folder.name}: {config['peft_type']}, off by {off:.1e} of the largest logit{'' if good else '  FAILED'}", *missing)
sys.exit(failed)
