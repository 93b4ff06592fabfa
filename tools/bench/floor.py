"""What `configs/folder.yaml` is worth against a linear model on the same features and examples.

    python tools/bench/floor.py --data FOLDER [--sets ...] [--seeds 0,1] [--out FILE]

Whole runs on the sets and splits of `from_floor.py`, with the shipped MobileNetV2 at 96 px. The
linear model is fitted on all that the model has trained on in the end: training and validation
examples. Prints test accuracies and their differences, with standard errors over the seeds. A
result that `--out` already holds is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from from_floor import SETS, SIZE, drawn
from image_sets import load

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.console import table

HERE = Path(__file__).parent


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=".")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", default=str(HERE / "floor.jsonl"))
    options = parser.parse_args()
    out = Path(options.out)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(row["set"], row["seed"]) for row in rows}
    for name in options.sets.split(","):
        for seed in map(int, options.seeds.split(",")):
            if (name, seed) not in known:
                rows.append(measure(name, seed, Path(options.data)))
                with out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(summary(rows))


def measure(name: str, seed: int, data: Path) -> dict[str, Any]:
    """Returns what one run gave."""
    keras.utils.clear_session()
    base, count, tests = SETS[name]
    pixels, labels = load(base, SIZE, data)
    arrays: dict[str, Any] = {}
    splits = drawn(labels, count, tests, seed)
    trained = np.unique(labels[splits["train"]])  # a class may have too few images
    for split, rows in splits.items():
        rows = rows[np.isin(labels[rows], trained)]
        arrays |= {f"x_{split}": pixels[rows]}
        arrays |= {f"y_{split}": np.searchsorted(trained, labels[rows])}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/data.npz", **arrays)
        changes = [
            "data.source=arrays", f"data.path={folder}/data.npz", f"seed={seed}",
            "backbone.name=MobileNetV2", "backbone.weights=starter", f"data.input.size={SIZE}",
            "export.saved_model=false", "report=false",
        ]  # fmt: skip
        config = ftkeras.load_config(str(HERE.parents[1] / "configs" / "folder.yaml"), changes)
        start, shown = time.monotonic(), io.StringIO()
        with contextlib.redirect_stdout(shown):
            run = ftkeras.train(parse_config(config.model_dump(mode="json")), f"{folder}/run")
        evaluation, kept = run.read_json("evaluation.json"), run.read_json("floor.json")["kept"]
    row = {"set": name, "seed": seed, "kept": kept, "accuracy": evaluation["accuracy"],
           "floor": evaluation["floor"]["accuracy"],
           "seconds": round(time.monotonic() - start, 1)}  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> str:
    """Returns the means over seeds as a table, and the median gain over the sets."""
    shown, gains = [], []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        each = [100 * (row["accuracy"] - row["floor"]) for row in own]
        error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else float("nan")
        gains.append(statistics.mean(each))
        accuracies = (statistics.mean(row[field] for row in own) for field in ("floor", "accuracy"))
        values = (f"{accuracy:.3f}" for accuracy in accuracies)
        shown.append((name, str(len(own)), *values, f"{gains[-1]:+.1f} +- {error:.1f}"))
    header = ("set", "seeds", "floor", "folder.yaml", "gain in points")
    return f"{table(shown, header)}\n\nmedian gain {statistics.median(gains):+.1f} points"


if __name__ == "__main__":
    main()
