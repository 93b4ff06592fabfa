"""How much ten classes that arrive two at a time lose, method by method.

The starter's classes come in five steps of two, in an order drawn under each seed: a first run on
two classes, then `ftkeras extend` four times. The baselines are plain fine-tuning on each step's
images alone (naive), and one run on all ten classes at once (joint). All have the same backbone,
epochs, rates and batch size. Other settings are the defaults; a memory has 200 images in all. There
are no validation images: the epoch of the best training accuracy counts.

Usage: python tools/bench/incremental.py [--seeds=3] [--first_seed=0] [--quick]
       [--only=naive,...] [--out=FILE.jsonl]

A result that `--out` already holds is not measured again, so an interrupted run resumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import ftkeras
from ftkeras.backbones import load_backbone
from ftkeras.config.load import parse_config
from ftkeras.console import table
from ftkeras.data.load import load_data
from ftkeras.inputs.image.input import ImageInput
from ftkeras.run import Run
from ftkeras.tasks.incremental.replay import as_kept

ALONE = ["incremental.replay=false", "data.balance=none"]
METHODS: dict[str, list[str]] = {
    "naive": [*ALONE, "incremental.distillation=0.0", "incremental.memory=0"],
    "ewc": [*ALONE, "incremental.distillation=0.0", "incremental.ewc=100"],
    "lwf": [*ALONE, "incremental.memory=0"],
    "replay": ["incremental.distillation=0.0"],
    "lwf + replay": [],
    "lwf + replay, not balanced": ["data.balance=none"],
    "not balanced, aligned": ["data.balance=none", "incremental.correction=weight_align"],
    "cosine + lwf + replay": ["incremental.head=cosine"],
}
STEPS, CLASSES = 5, 10

flags.DEFINE_integer("seeds", 3, "how many seeds")
flags.DEFINE_integer("first_seed", 0, "the first seed")
flags.DEFINE_integer("image_size", 64, "side of the images, in pixels")
flags.DEFINE_string("cut", "block_6_expand_relu", "the layer of MobileNetV2 to end at; '' for none")
flags.DEFINE_integer("epochs", 6, "epochs of each run")
flags.DEFINE_list("only", [], "names of methods; all by default")
flags.DEFINE_boolean("quick", False, "one seed, one epoch, a tenth of the images")
flags.DEFINE_string("out", "incremental.jsonl", "file of the results")
FLAGS = flags.FLAGS


def write_data(folder: Path, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Writes the images of each step and of all; returns their `data` sections."""
    data = load_data("starter", split={"val": None, "test": "test"})
    every = 10 if FLAGS.quick else 1
    parts = {}
    for name in ("train", "test"):
        split = data.splits[name].take(np.arange(0, len(data.splits[name]), every))
        parts[name] = as_kept(split, ImageInput(28)), split.labels
    order = np.random.default_rng(seed).permutation(CLASSES)

    def write(name: str, classes: np.ndarray) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for part, (images, labels) in parts.items():
            rows = np.isin(labels, classes)
            number = {int(c): i for i, c in enumerate(classes)}
            arrays[f"x_{part}"] = images[rows]
            arrays[f"y_{part}"] = np.array([number[int(c)] for c in labels[rows]])
        np.savez(folder / name, **arrays)
        names = [data.class_names[c] for c in classes]
        return {"source": "arrays", "path": str(folder / name), "class_names": names}

    steps = [write(f"step-{i}.npz", order[2 * i : 2 * i + 2]) for i in range(STEPS)]
    return steps, write("all.npz", order)


def config(data: dict[str, Any], backbone: dict[str, Any], seed: int) -> Any:
    """Returns the config of a first run, or of the joint one."""
    tree = {
        "seed": seed,
        "data": {
            "input": {"size": FLAGS.image_size, "augmentation": "none"},
            "split": {"val": None, "test": "test"},
            **data,
        },
        "backbone": backbone,
        "phases": [
            {
                "name": "top",
                "train": ["head", "blocks[-4:]"],
                "epochs": 1 if FLAGS.quick else FLAGS.epochs,
                "learning_rate": 1e-3,
                "warmup": 0.1,
            }
        ],
        "export": {"saved_model": False},
        "report": False,
        "trunk": {"mode": "off"},
    }
    return parse_config(tree)


def backbone_in(folder: Path) -> dict[str, Any]:
    """Returns the `backbone` section; a shorter network is written into the folder."""
    if not FLAGS.cut:
        return {"name": "MobileNetV2", "weights": "starter"}
    whole = load_backbone("MobileNetV2", weights="starter", image_size=FLAGS.image_size).model
    images = keras.Input(whole.input_shape[1:])
    shorter = keras.Model(whole.input, whole.get_layer(FLAGS.cut).output)
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(images)
    keras.Model(images, shorter(scaled)).save(folder / "short.keras")
    return {"name": str(folder / "short.keras")}


def chain(base: Run, steps: list[dict[str, Any]], overrides: list[str], out: Path) -> Run:
    """Extends a run by one step after the other; returns the last."""
    run = base
    for number, data in enumerate(steps[1:], start=1):
        keras.utils.clear_session()
        split = {"split": {"val": None, "test": "test"}}
        more = ["incremental.held_out=100", *overrides]
        run = ftkeras.extend(run, {**data, **split}, str(out / f"step-{number}"), more)
    return run


def measure(seed: int, done: set[tuple[str, int]], names: list[str], path: Path) -> None:
    """Measures what is not known yet with one seed."""
    wanted = [name for name in ("joint", *names) if (name, seed) not in done]
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        steps, whole = write_data(folder, seed)
        backbone = backbone_in(folder)
        base = None
        for name in wanted:
            start = time.process_time()
            keras.utils.clear_session()
            with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
                if name == "joint":
                    run = ftkeras.train(config(whole, backbone, seed), str(folder / "joint"))
                    stats = {"average_accuracy": run.read_json("evaluation.json")["accuracy"]}
                else:
                    base = base or ftkeras.train(
                        config(steps[0], backbone, seed), str(folder / "base")
                    )
                    out = folder / name.replace(" ", "")
                    stats = chain(base, steps, METHODS[name], out).read_json("task.json")["summary"]
                    shutil.rmtree(out)
            line = {"method": name, "seed": seed, **stats, "seconds": time.process_time() - start}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


def report(results: list[dict[str, Any]], names: list[str]) -> str:
    """Returns the table: mean and standard deviation over seeds."""
    columns = ("average_accuracy", "backward_transfer", "forgetting", "incremental_accuracy")

    def cell(rows: list[dict[str, Any]], column: str) -> str:
        values = [row[column] for row in rows if row.get(column) is not None]
        if not values:
            return "-"
        spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.3f}{spread}"

    rows = []
    for name in names:
        mine = [row for row in results if row["method"] == name]
        if mine:
            seconds = statistics.median(row["seconds"] for row in mine)
            cells = (cell(mine, c) for c in columns)
            rows.append((name, *cells, f"{seconds:.0f} s", len(mine)))
    titles = ("average accuracy", "backward transfer", "forgetting", "over steps")
    header = ("method", *titles, "CPU", "seeds")
    return table(rows, header)


def main(_: list[str]) -> None:
    """Measures what is not known yet, and prints the table."""
    tf.get_logger().setLevel("ERROR")
    path, names = Path(FLAGS.out), FLAGS.only or list(METHODS)

    def known() -> list[dict[str, Any]]:
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    seeds = 1 if FLAGS.quick else FLAGS.seeds
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + seeds):
        measure(seed, {(row["method"], row["seed"]) for row in known()}, names, path)
    print(
        f"\n{CLASSES} classes in {STEPS} steps, {FLAGS.image_size} px; mean, deviation over seeds\n"
    )
    print(report(known(), [*names, "joint"]))


if __name__ == "__main__":
    app.run(main)
