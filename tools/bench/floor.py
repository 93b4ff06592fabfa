"""What it is worth to start from a linear model on frozen features, and to choose the end.

    python tools/bench/floor.py [--sets starter-100,starter-500,digits] [--seeds 3] [--out FILE]

Whole runs with the phases of `configs/folder.yaml` and the shipped MobileNetV2 at 96 px, on the
starter's images (so many to train on, 1,000 to test on) and on scikit-learn's digits. Each seed
draws other training and validation examples, a fifth of them for validation, and all ways get the
same ones: a head that starts at random, one that starts from the floor, and that with the end
chosen on validation. Prints test accuracies and their differences to the floor, which is
scikit-learn's logistic regression on the same features, with standard errors over the seeds.

A result that `--out` already holds is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.console import table
from ftkeras.data.load import load_data
from ftkeras.inputs.image.decode import whole

WAYS = {
    "random": {"head.start": "random"},
    "from the floor": {"head.start": "floor", "training.end": "trained"},
    "end chosen": {"head.start": "floor", "training.end": "chosen"},
}
DIGITS = 500  # to train on


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default="starter-100,starter-500,digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--phases", help="a strategy's name in place of folder.yaml's phases")
    parser.add_argument("--out", default="floor.jsonl")
    options = parser.parse_args()
    out = Path(options.out)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(row["set"], row["seed"], row["way"], row["phases"]) for row in done}
    for name in options.sets.split(","):
        for seed in range(options.seeds):
            for way in WAYS:
                if (name, seed, way, options.phases) in known:
                    continue
                done.append(measure(name, seed, way, options.phases))
                with out.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    rows = [row for row in done if row["phases"] == options.phases]
    print(summary(rows, options.sets.split(",")))


def measure(name: str, seed: int, way: str, phases: str | None) -> dict[str, Any]:
    """Returns what one run gave."""
    keras.utils.clear_session()
    here = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/data.npz", **examples(name, seed))
        changes = [
            "data.source=arrays", f"data.path={folder}/data.npz", f"seed={seed}",
            "data.split.val=0.2", "backbone.name=MobileNetV2", "backbone.weights=starter",
            "data.input.size=96", "export.saved_model=false", "report=false",
            *(f"{field}={value}" for field, value in WAYS[way].items()),
            *([f"phases={{strategy: {phases}}}"] if phases else []),
        ]  # fmt: skip
        config = ftkeras.load_config(str(here / "configs" / "folder.yaml"), changes)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            run = ftkeras.train(parse_config(config.model_dump(mode="json")), f"{folder}/run")
        evaluation = run.read_json("evaluation.json")
        seconds = sum(record["seconds"] for record in run.metrics())
        kept = run.read_json("floor.json")["kept"] if way == "end chosen" else ""
    row = {"set": name, "seed": seed, "way": way, "phases": phases, "kept": kept,
           "accuracy": evaluation["accuracy"], "floor": evaluation["floor"]["accuracy"],
           "seconds": round(seconds, 1)}  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def examples(name: str, seed: int) -> dict[str, Any]:
    """Returns x_train, y_train, x_test and y_test of a set; another seed draws other ones."""
    random = np.random.default_rng(seed)
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = np.kron(digits.images, np.ones((1, 8, 8))) * (255 / 16)  # 64 px
        pixels = np.repeat(grey[..., np.newaxis], 3, axis=-1).astype(np.uint8)
        order = random.permutation(len(pixels))
        train, test = order[:DIGITS], order[DIGITS:]
        return {
            "x_train": pixels[train], "y_train": digits.target[train],
            "x_test": pixels[test], "y_test": digits.target[test],
        }  # fmt: skip
    count = int(name.partition("-")[2])
    data, arrays = load_data("starter", split={"val": None, "test": "test"}), {}
    for split in ("train", "test"):
        part = data.splits[split]
        rows = np.arange(len(part))
        if split == "train":
            each = [random.permutation(np.flatnonzero(part.labels == c)) for c in range(10)]
            rows = np.concatenate([own[: count // 10] for own in each])
        shown = [np.array(whole(part.fetch(tf.constant(i, tf.int64)))) for i in rows]
        arrays[f"x_{split}"] = np.array(shown, np.uint8)
        arrays[f"y_{split}"] = part.labels[rows]
    return arrays


def summary(rows: list[dict[str, Any]], sets: list[str]) -> str:
    """Returns a row for each set and way."""
    lines = []
    for name in sets:
        for way in WAYS:
            own = [row for row in rows if row["set"] == name and row["way"] == way]
            gains = [row["accuracy"] - row["floor"] for row in own]
            spread = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
            kept = ", ".join(row["kept"] for row in own if row["kept"])
            floor, accuracy = (
                statistics.mean(row[what] for row in own) for what in ("floor", "accuracy")
            )
            gain = f"{statistics.mean(gains):+.3f} +- {spread:.3f}"
            lines.append((name, way, f"{floor:.3f}", f"{accuracy:.3f}", gain, kept))
    return table(lines, ("set", "head", "floor", "test accuracy", "gain over the floor", "kept"))


if __name__ == "__main__":
    main()
