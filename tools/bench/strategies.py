"""Test accuracy of each fine-tuning strategy on the starter images.

Every named strategy, and ablations of the phase engine, on 100, 500 and 2,000 training images. The
number of epochs is the same for all strategies, and larger for fewer images. Prints mean test
accuracy with its standard error over seeds, and CPU time.

Usage: python tools/bench/strategies.py [--sizes=100,500,2000] [--seeds=3] [--out=FILE.jsonl]

A result that `--out` already holds is not measured again, so an interrupted run resumes.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from ftkeras.backbones import Backbone, load_backbone
from ftkeras.config.schema import StrategyConfig
from ftkeras.console import table
from ftkeras.data.dataset import Data
from ftkeras.data.load import load_data
from ftkeras.inputs.image.decode import whole
from ftkeras.model.assemble import build_model
from ftkeras.model.lora import add_lora
from ftkeras.phases import Phase, StagedUnfreezing, make_plan, weights_of
from ftkeras.phases.strategies import (
    STRATEGIES,
    Setting,
    choose,
    expand,
    relative_gradients,
)
from ftkeras.training.pointwise import quick_pointwise_gradients

HEAD_RATE, FINE_RATE, BATCH = 3e-3, 3e-4, 32
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ABLATIONS = (
    "last_n: layer decay",
    "last_n: no warm-up",
    "last_n: recompiled",
    "last_n: shared step count",
)

flags.DEFINE_list("sizes", ["100", "500", "2000"], "numbers of training images")
flags.DEFINE_integer("seeds", 3, "how many seeds")
flags.DEFINE_integer("image_size", 64, "side of the images, in pixels")
flags.DEFINE_list("epochs", ["32", "16", "8"], "epochs of all phases together, for each size")
flags.DEFINE_list("only", [], "names of strategies; all by default")
flags.DEFINE_integer("rank", 8, "rank of the adapters of strategies whose name begins with lora")
flags.DEFINE_string("out", "strategies.jsonl", "file of the results")
FLAGS = flags.FLAGS

Arrays = tuple[np.ndarray, np.ndarray]


def images(data: Data, split: str, size: int) -> Arrays:
    """Returns a split's images, float32 (n, size, size, 3), and labels, int32 (n,)."""
    part = data.splits[split]
    shape = (size, size)
    pixels = [
        tf.image.resize(whole(part.fetch(tf.constant(i, tf.int64))), shape)
        for i in range(len(part))
    ]
    return np.stack(pixels), part.labels


def subset(arrays: Arrays, count: int, seed: int) -> Arrays:
    """Draws `count` examples, as many of each class."""
    pixels, labels = arrays
    random = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    rows = [
        random.permutation(np.flatnonzero(labels == c))[: count // classes] for c in range(classes)
    ]
    chosen = random.permutation(np.concatenate(rows))
    return pixels[chosen], labels[chosen]


def compiled(backbone: Backbone, seed: int) -> keras.Model:
    """Returns a new model on the backbone."""
    model = build_model(backbone, 10, seed=seed)
    compile_anew(model)
    return model


def compile_anew(model: keras.Model) -> None:
    """Gives the model a new optimizer, as people do between stages."""
    optimizer = keras.optimizers.AdamW(weight_decay=1e-4)
    model.compile(optimizer, LOSS, metrics=["accuracy"])


def setting(model: keras.Model, backbone: Backbone, train: Arrays, epochs: int) -> Setting:
    """Returns what every strategy is given."""
    weights = weights_of(model, backbone.blocks)
    batches = tf.data.Dataset.from_tensor_slices(train).batch(BATCH).take(4)
    return Setting(
        StrategyConfig(
            strategy="auto", epochs=epochs, learning_rate=HEAD_RATE, fine_rate=FINE_RATE
        ),
        weights=weights,
        examples=len(train[1]),
        relative_gradients=lambda: relative_gradients(model, weights, batches, LOSS),
    )


def run(name: str, train: Arrays, test: Arrays, epochs: int, seed: int) -> dict[str, Any]:
    """Trains once and returns what came of it."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=FLAGS.image_size)
    model = compiled(backbone, seed)
    if name.startswith("lora"):
        add_lora(backbone.model, rank=FLAGS.rank, alpha=2.0 * FLAGS.rank, seed=seed)
    start = time.process_time()  # of all cores; other work on the machine does not lengthen it
    strategy, _, change = name.partition(": ")
    phases = list(expand(strategy, setting(model, backbone, train, epochs)).phases)
    plan = make_plan(model, weights_of(model, backbone.blocks), phases)
    with quick_pointwise_gradients(model):
        TRAINERS[change](model, backbone, phases, train)
    seconds = time.process_time() - start
    accuracy = model.evaluate(*test, batch_size=100, verbose=0, return_dict=True)["accuracy"]
    trained = max(phase.parameters for phase in plan.phases)
    return {"accuracy": accuracy, "seconds": seconds, "trained": trained}


def fit(model: keras.Model, backbone: Backbone, phases: list[Phase], train: Arrays) -> None:
    """Trains as ftkeras does: one fit, one optimizer."""
    unfreeze = StagedUnfreezing(model, phases, blocks=backbone.blocks)
    options = {"batch_size": BATCH, "epochs": unfreeze.epochs, "verbose": 0}
    model.fit(*train, callbacks=[unfreeze], **options)


def with_layer_decay(
    model: keras.Model, backbone: Backbone, phases: list[Phase], train: Arrays
) -> None:
    """Lowers the rate by a fifth from block to block."""
    head, fine = phases
    fit(model, backbone, [head, _changed(fine, layer_decay=0.8)], train)


def without_warm_up(
    model: keras.Model, backbone: Backbone, phases: list[Phase], train: Arrays
) -> None:
    """Starts each phase at its peak rate."""
    fit(model, backbone, [_changed(phase, warmup=0.0) for phase in phases], train)


def recompiled(model: keras.Model, backbone: Backbone, phases: list[Phase], train: Arrays) -> None:
    """Makes a new optimizer for each phase: the state of the one before is lost."""
    for phase in phases:
        compile_anew(model)
        fit(model, backbone, [phase], train)


def with_shared_steps(
    model: keras.Model, backbone: Backbone, phases: list[Phase], train: Arrays
) -> None:
    """Lets new weights begin at the optimizer's own step count, as stock Keras does."""
    unfreeze = StagedUnfreezing(model, phases, blocks=backbone.blocks)
    options = {"batch_size": BATCH, "epochs": unfreeze.epochs, "verbose": 0}
    model.fit(*train, callbacks=[unfreeze, _SharedSteps()], **options)


class _SharedSteps(keras.callbacks.Callback):
    """Gives every group of weights the step count of the whole optimizer."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        for iterations, *_ in optimizer.group_variables:
            iterations.assign(optimizer.iterations)


Trainer = Callable[[keras.Model, Backbone, list[Phase], Arrays], None]
TRAINERS: dict[str, Trainer] = {
    "": fit,
    "layer decay": with_layer_decay,
    "no warm-up": without_warm_up,
    "recompiled": recompiled,
    "shared step count": with_shared_steps,
}


def _changed(phase: Phase, **fields: Any) -> Phase:
    return Phase(**{**vars(phase), **fields})


def known(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the results that a file holds."""
    if path.exists():
        yield from (json.loads(line) for line in path.read_text().splitlines())


def report(results: list[dict[str, Any]], sizes: list[int]) -> str:
    """Returns the table: mean accuracy and its standard error, by strategy and size."""
    rows = []
    for name in [*STRATEGIES, *ABLATIONS]:
        cells = []
        for size in sizes:
            measured = choose(size)[0] if name == "auto" else name  # the very same phases
            runs = [r for r in results if r["strategy"] == measured and r["size"] == size]
            values = [r["accuracy"] for r in runs]
            if len(values) < 2:
                cells.append(f"{values[0]:.3f}" if values else "-")
                continue
            error = statistics.stdev(values) / math.sqrt(len(values))
            cells.append(f"{statistics.mean(values):.3f} +- {error:.3f}")
        mine = [r["seconds"] for r in results if r["strategy"] == name and r["size"] == sizes[-1]]
        trained = {f"{r['trained']:,}" for r in results if r["strategy"] == name and "trained" in r}
        time_taken = f"{statistics.median(mine):.0f} s" if mine else "-"
        rows.append((name, *cells, time_taken, ", ".join(sorted(trained)) or "-"))
    sizes_shown = (f"{size} images" for size in sizes)
    header = ("strategy", *sizes_shown, f"CPU time at {sizes[-1]}", "trained at most")
    return table(rows, header)


def main(_: list[str]) -> None:
    """Measures what is not known yet, and prints the table."""
    path, sizes = Path(FLAGS.out), [int(size) for size in FLAGS.sizes]
    data = load_data("starter", split={"val": None, "test": "test"})
    train, test = (images(data, split, FLAGS.image_size) for split in ("train", "test"))
    done = {(r["strategy"], r["size"], r["seed"]) for r in known(path)}
    names = FLAGS.only or [name for name in (*STRATEGIES, *ABLATIONS) if name != "auto"]
    epochs = dict(zip(sizes, map(int, FLAGS.epochs), strict=True))
    todo = [
        (name, size, seed)
        for seed in range(FLAGS.seeds)
        for size in sizes
        for name in names
        if (name, size, seed) not in done
    ]
    for number, (name, size, seed) in enumerate(todo, start=1):
        result = run(name, subset(train, size, seed), test, epochs[size], seed)
        line = {"strategy": name, "size": size, "seed": seed, **result}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{number}/{len(todo)}  {line}", flush=True)
    lengths = ", ".join(f"{epochs[size]} epochs on {size} images" for size in sizes)
    print(f"\nTest accuracy at {FLAGS.image_size} px, {FLAGS.seeds} seeds; {lengths}\n")
    print(report(list(known(path)), sizes))


if __name__ == "__main__":
    app.run(main)
