"""An epoch of training without a stored trunk: bare `model.fit` against ftkeras's `fit`.

    python tools/bench/step.py [--pairs 5] [--size 96] [--images 512] [--train "blocks[-4:]"]
    python tools/bench/step.py --against=OTHER    ftkeras's steps here and in another checkout

Both have the same compiled MobileNetV2, the same weights training, the same images in memory and
batch size 32. ftkeras has all its callbacks: rates by weight, gradient norms, audit, record,
checkpoints, logs. Two times are measured: from the end of the first epoch, when everything is
traced, to the end of the last; and from the call of `fit` to the end of the first step.

Then the head trains alone on the stored output of the trunk: several steps per call, which ftkeras
does there, against one. Both sides alternate; each ratio is of one such pair.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from ftkeras.backbones import Backbone, load_backbone
from ftkeras.config.load import parse_config
from ftkeras.config.schema import TrunkConfig
from ftkeras.console import table
from ftkeras.data.dataset import Data
from ftkeras.data.feed import Feed
from ftkeras.data.load import load_data
from ftkeras.graph import Graph, GraphModel
from ftkeras.inputs.image.input import ImageInput
from ftkeras.model.assemble import build_model
from ftkeras.phases import Phase
from ftkeras.run import Run
from ftkeras.runs.optimizer import OPTIMIZERS
from ftkeras.training import executions
from ftkeras.training.fit import fit
from ftkeras.training.resume.checkpoint import Checkpoints
from ftkeras.training.resume.phases import ResumableUnfreezing
from ftkeras.trunk.plan import plan_trunk

EPOCHS = 4
PHASES = {"phases": [{"name": "top", "epochs": EPOCHS, "learning_rate": 1e-4}]}  # of the record
HEADER = ("", "bare fit", "ftkeras", "ratio", "lowest", "highest", "goal")


class Clock(keras.callbacks.Callback):
    """Notes when the first step and each epoch ended."""

    def __init__(self) -> None:
        super().__init__()
        self.start = time.perf_counter()
        self.first_step = 0.0
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.first_step = self.first_step or time.perf_counter() - self.start

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """How long all epochs but the first took, and what came between them."""
        return self.times[-1] - self.times[0]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--train", default="blocks[-4:]")
    parser.add_argument("--against", help="a checkout of another version, with its own step.py")
    options = parser.parse_args()
    if options.against:
        print(compare(options.against, options))
        return
    data, few, phase = work(options.images, options.train)
    pairs = []
    for _ in range(options.pairs):
        pairs.append(tuple(speed(few, options.size, phase, full) for full in (False, True)))
    heads = []
    for _ in range(options.pairs):
        heads.append((head_speed(data, options.size, 1), head_speed(data, options.size, 16)))
    rows = [
        row("images per second", [(bare[0], full[0]) for bare, full in pairs], ">= 0.98"),
        row("seconds to the first step", [(bare[1], full[1]) for bare, full in pairs], "-"),
    ]
    print(table(rows, HEADER))
    print()
    header = ("", "one step per call", "ftkeras", *HEADER[3:])
    print(table([row("a stored head, images per second", heads, "-")], header))
    print(f"{options.train} at {options.size} px; medians over {options.pairs} alternating pairs")


def work(images: int, train: str) -> tuple[Data, Data, Phase]:
    """Returns all images, so many of them without the rest, and the phase to train."""
    data = load_data("starter", split={"val": None, "test": "test"})
    part = data.splits["train"]
    kept = type(part)("train", part.ids[:images], part.labels, part.classes, part.fetch)
    few = dataclasses.replace(data, splits={"train": kept})
    return data, few, Phase("top", train=["head", train], epochs=EPOCHS, learning_rate=1e-4)


# What each checkout runs in a process of its own; its own `step.py` has these functions, too.
ONE = """
import dataclasses, json, sys
import step
from ftkeras.data.load import load_data
from ftkeras.phases import Phase
images, size, train = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
data = load_data("starter", split={"val": None, "test": "test"})
part = data.splits["train"]
kept = type(part)("train", part.ids[:images], part.labels, part.classes, part.fetch)
few = dataclasses.replace(data, splits={"train": kept})
phase = Phase("top", train=["head", train], epochs=step.EPOCHS, learning_rate=1e-4)
rate, first = step.speed(few, size, phase, True)
print(json.dumps([1 / rate, first, 1 / step.head_speed(data, size, 16)]))
"""


def compare(other: str, options: argparse.Namespace) -> str:
    """Returns the table of this checkout's times over another's, in alternating pairs."""
    here = Path(__file__).parents[2]
    arguments = [str(options.images), str(options.size), options.train]
    times: list[tuple[list[float], list[float]]] = []
    for _ in range(options.pairs):
        pair = [one(Path(folder), arguments) for folder in (other, here)]
        times.append((pair[0], pair[1]))
    names = ("seconds per image", "seconds to the first step", "seconds per image, stored head")
    rows = []
    for i, name in enumerate(names):
        ratios = [after[i] / before[i] for before, after in times]
        numbers = (f"{f(ratios):.3f}" for f in (statistics.median, min, max))
        rows.append([name, *numbers])
    return table(rows, ("this version over the other", "ratio", "lowest", "highest"))


def one(folder: Path, arguments: list[str]) -> list[float]:
    """Returns the times of one checkout, measured in a new process."""
    path = os.pathsep.join([str(folder.resolve()), str(folder.resolve() / "tools" / "bench")])
    done = subprocess.run(
        [sys.executable, "-c", ONE, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


def row(name: str, pairs: list[tuple[float, float]], goal: str) -> list[object]:
    """Returns a row of the table."""
    ratios = [full / bare for bare, full in pairs]
    medians = [f"{statistics.median(column):.1f}" for column in zip(*pairs, strict=True)]
    return [name, *medians, *(f"{f(ratios):.2f}" for f in (statistics.median, min, max)), goal]


def speed(data: Data, size: int, phase: Phase, full: bool) -> tuple[float, float]:
    """Trains once and returns images per second, and the seconds to the first step."""
    keras.utils.clear_session()
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=size)
    model = compiled(backbone, len(data.class_names))
    unfreeze = ResumableUnfreezing(model, [phase], blocks=backbone.blocks)
    feed = Feed(data, ImageInput(size), batch_size=32)
    feed.train()  # images are decoded into memory before the clock starts
    clock = Clock()
    if full:
        config = parse_config(
            {"data": {"source": "starter"}, "backbone": {"name": "MobileNetV2"}, **PHASES}
        )
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            run = Run.create(f"{folder}/run", config)
            best = Checkpoints(model, run, "accuracy")
            fit(model, feed, unfreeze=unfreeze, checkpoints=best, callbacks=[clock])
    else:
        trained = {id(weight.variable) for weight in unfreeze.plan.phases[0].trained}
        for layer in backbone.model.layers:
            layer.trainable = any(id(v) in trained for v in layer.trainable_variables)
        assert len(model.trainable_variables) == len(trained)
        optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-4)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, model.loss, metrics=["accuracy"])
        model.fit(feed.train(), epochs=EPOCHS, verbose=0, callbacks=[clock])
    return (EPOCHS - 1) * len(data.splits["train"]) / clock.seconds, clock.first_step


def head_speed(data: Data, size: int, steps: int) -> float:
    """Trains the head from a store, so many steps per call; returns images per second.

    All epochs but the first count, with their checkpoints.
    """
    keras.utils.clear_session()
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=size)
    model = compiled(backbone, len(data.class_names))
    phase = Phase("head", train=["head"], epochs=8, learning_rate=3e-3)
    unfreeze = ResumableUnfreezing(model, [phase], blocks=backbone.blocks)
    only = dataclasses.replace(data, splits={"train": data.splits["train"]})
    feed = Feed(only, ImageInput(size), batch_size=32)

    def make_tail(graph: Graph) -> keras.Model:
        return compile_like_all(GraphModel(graph, "tail", model), model.optimizer)

    trunk = plan_trunk(model, feed, unfreeze, TrunkConfig(mode="on"), make_tail)
    config = parse_config(
        {"data": {"source": "starter"}, "backbone": {"name": "MobileNetV2"}, **PHASES}
    )
    executions._TOGETHER = steps
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = Run.create(f"{folder}/run", config)
        best = Checkpoints(model, run, "accuracy")
        fit(model, feed, unfreeze=unfreeze, checkpoints=best, trunk=trunk)
        seconds = [record["seconds"] for record in run.metrics()][1:]
    return len(seconds) * len(data.splits["train"]) / sum(seconds)


def compiled(backbone: Backbone, classes: int) -> keras.Model:
    """Returns a new model on the backbone, with the optimizer that runs have."""
    optimizer = OPTIMIZERS["adamw"](1e-4, weight_decay=1e-4)
    return compile_like_all(build_model(backbone, classes, seed=0), optimizer)


def compile_like_all(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> keras.Model:
    """Compiles a model or a part of one, and returns it."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


if __name__ == "__main__":
    np.random.seed(0)
    main()
