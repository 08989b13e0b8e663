"""Reads the event file of a training with TensorBoard's own reader, and compares it with the JSON lines that the same training logged.

    FORNAX_TENSORBOARD_OUT=out/tensorboard cargo test --all-features --test all trainer_numbers::event_files
    python tests/golden/check_tensorboard.py out/tensorboard          (in the repository's folder)

The folder must be new: lines and events of several trainings would be mixed.
"""

import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

folder = Path(sys.argv[1])
expected, of_epochs = {}, 0
for line in (folder / "log.jsonl").read_text().splitlines():
    row = json.loads(line)
    epoch, step = row.pop("epoch"), row.pop("step")
    # An epoch is logged after its last step, under the step's number.
    of_step = ("step/loss", step) not in expected
    of_epochs += not of_step
    for name, value in row.items():
        expected["step/" + name if of_step else name, step] = float(value)

events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0}).Reload()
found = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
close = lambda a, b: abs(a - b) <= 1e-6 * max(1.0, abs(a))  # noqa: E731
wrong = [key for key in expected.keys() | found.keys() if key not in found or key not in expected or not close(expected[key], found[key])]
histograms = events.Tags()["histograms"]
counts = {tag: len(events.Histograms(tag)) for tag in histograms}
failed = bool(wrong) or not expected or not histograms or set(counts.values()) != {of_epochs}
print(f"{len(found)} scalars, {len(expected)} logged; histograms of {counts}, {of_epochs} epochs", *sorted(wrong), "FAILED" if failed else "")
sys.exit(failed)
