"""Runs the Python of docs/handing-over.md on a trained `digits.toml`, and checks what came of it.

Usage: check_recipes.py PAGE, in the folder of the pipeline, with the event files in `curves`.
"""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio.sqlite_storage import SQLiteStorage
from wandb.proto import wandb_internal_pb2

PAGE = Path(sys.argv[1]).read_text()
BLOCKS = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL))


def perform(name, then=""):
    """Runs a block as a program of its own, and this line after it; returns what it prints."""
    return subprocess.check_output([sys.executable, "-c", f"{BLOCKS.pop(name)}\n{then}"], text=True)


def erw(*args):
    return json.loads(subprocess.check_output(["erw", *args]))


def near(a, b):
    return abs(a - b) <= 1e-6 * max(1.0, abs(b))


def wandb_records(path):
    """The records of an offline run: a log of blocks of 32 KiB, in which long records are split."""
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


steps = erw("metrics", "digits.toml", "train", "--steps", "--format", "json")
assert len(steps) > 3 and steps[0]["step"] < steps[-1]["step"], steps
losses = {row["step"]: row["loss"] for row in steps}

# TensorBoard's own reader.
[folder] = Path("curves").glob("train-*")
events = EventAccumulator(str(folder))
events.Reload()
read = {event.step: event.value for event in events.Scalars("loss")}
assert read.keys() == losses.keys() and all(near(read[step], losses[step]) for step in losses), (read, losses)

perform("to_trackio")
[run] = SQLiteStorage.get_runs("digits")
logged = SQLiteStorage.get_logs("digits", run)
read = {row["step"]: row["loss"] for row in logged if "loss" in row}
assert read.keys() == losses.keys() and all(near(read[step], losses[step]) for step in losses), (read, losses)

lines = BLOCKS["to_wandb"].strip().splitlines()
assert len(lines) == 8, lines
perform("to_wandb")
[file] = Path("wandb").glob("offline-run-*/*.wandb")
history, summary, config = {}, {}, {}
for record in wandb_records(file):
    row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
    if row:
        history[row["_step"]] = row["loss"]
    for item in record.summary.update:
        summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    for item in record.run.config.update:
        config["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
assert history == losses, (history, losses)
results = {row["metric"]: row["value"] for row in erw("metrics", "digits.toml", "fd", "--format", "json")}
assert results and results.items() <= summary.items(), summary
assert str(config["batch"]) == "8", config

assert len(BLOCKS["to_pandas"].strip().splitlines()) == 3
frame = json.loads(perform("to_pandas", "print(frame['loss'].to_json(double_precision=15))"))
assert len(frame) == len(losses) and all(near(frame[str(step)], losses[step]) for step in losses), frame

assert perform("to_diffusers", "print([image.size for image in images])").strip() == str([(32, 32)] * 4)
digest = perform("read_metadata").strip()
assert digest == erw("show", "digits.toml:train", "--json")["digest"], digest
assert not BLOCKS, f"blocks that nothing checks: {list(BLOCKS)}"
