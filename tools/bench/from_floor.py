"""Which recipe, started from the floor, beats the floor: on eleven small sets of images.

    python tools/bench/from_floor.py --data FOLDER [--recipes ...] [--sets ...] [--seeds 0,1]

The shipped MobileNetV2 at 96 px, or another backbone, whose rows go to an `--out` of its own
(`lite0.py` makes one; its rows are in `lite0.jsonl`). The head starts from the linear model on
frozen features, batch normalisation is frozen, nothing is augmented. A recipe says which blocks
train with the head, at what peak rate (Adam, a tenth of the steps warms up, then cosine to zero),
and how long. The training loop is written out here so that it is traced once, and what is frozen
runs once per set. `tools/bench/floor.py` measures the same with whole runs of `ftkeras train`.

A row of `--out` has, of each candidate for the end, the accuracy on the test examples, and which
test examples (`missed`) and validation examples (`wrong`) it gets wrong: `final` is the last epoch,
`best` the one that validation found best, the number after it the share of the fine-tuned weights
(the rest is the floor), `refit` the last epoch of a second training on training and validation
examples together. So rules of choice can be compared without training again: `--rules` prints what
each gains over the floor, and beside it what `rivals.py` has measured (`floor_rules.py`). A result
that `--out` already holds is not measured again. `--data` is the folder that `image_sets.py`
describes. TensorFlow uses one thread, so a row repeats on the same processor.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from floor_rules import Row, packed, summary
from image_sets import load

from ftkeras.backbones import load_backbone
from ftkeras.measures.linear import STRENGTHS, Linear, logistic
from ftkeras.model.assemble import build_model
from ftkeras.training.pointwise import quick_pointwise_gradients
from ftkeras.trunk.split import split_model

SETS = {  # the set, how many examples to train on (a fifth of them validates), and to test on
    "garments-50": ("starter", 50, 700),
    "garments-100": ("starter", 100, 700),
    "garments-500": ("starter", 500, 700),
    "garments-2000": ("starter", 2000, 700),
    "digits-300": ("digits", 300, 700),
    "mnist-500": ("mnist", 500, 700),
    "emoji-200": ("emoji", 200, 700),
    "emoji-600": ("emoji", 600, 700),
    "clipart-150": ("clipart", 150, 385),
    "clipart-400": ("clipart", 400, 385),
    "stamps-200": ("stamps", 200, 170),
}
SIZE, BATCH, WARM = 96, 32, 0.1
SHARES = (0.5, 1.0)
Weights = list[np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        blocks: How many of the last blocks train; 0 is all.
        rate: The peak rate.
        epochs: How many.
        steps: At least so many; epochs are added until there are.
        decay: The share of the rate of the block after it that a block has (layer-wise rates).
        flip: Whether half of the images are mirrored, other ones in each epoch.
    """

    blocks: int
    rate: float
    epochs: int = 20
    steps: int = 0
    decay: float = 1.0
    flip: bool = False


RECIPES = {
    "t4 1e-4 20": Recipe(4, 1e-4),
    "t4 3e-4 20": Recipe(4, 3e-4),
    "t4 3e-4 400": Recipe(4, 3e-4, steps=400),
    "full 3e-4 20": Recipe(0, 3e-4),
    "t8 3e-4 20 x0.7": Recipe(8, 3e-4, decay=0.7),
    "t4 3e-4 20 flip": Recipe(4, 3e-4, flip=True),
}
IN_USE = "t4 3e-4 20"
OUT = Path(__file__).parent / "from_floor.jsonl"


class Learner:
    """A model whose last blocks train, again and again from the same weights."""

    def __init__(self, classes: int, blocks: int, file: str):
        name, options = ("MobileNetV2", {"weights": "starter"}) if not file else (file, {})
        backbone = load_backbone(name, image_size=SIZE, **options)
        self.model = build_model(backbone, classes, seed=0, dropout=0.2)
        for layer in backbone.model.layers:
            layer.trainable = False
        for block in backbone.blocks[-blocks:]:
            for layer in block.layers:
                layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        split = split_model(self.model)
        self._trunk = None if split is None else tf.function(split.trunk, reduce_retracing=True)
        self._tail = self.model if split is None else split.tail
        trained = self._tail.trainable_variables
        self._weights = [v.value for v in trained]
        depth = {
            id(variable): number
            for number, block in enumerate(reversed(backbone.blocks), start=1)
            for layer in block.layers
            for variable in layer.variables
        }
        self._depth = np.array([depth.get(id(v), 0) for v in trained], np.float32)  # 0: the head
        self._first = self.weights()
        self._moments = [tf.Variable(tf.zeros_like(w)) for w in 2 * self._weights]
        self._step = tf.Variable(0.0)
        self._train = tf.function(self._update, reduce_retracing=True)
        self._said = tf.function(self._tail, reduce_retracing=True)

    def frontier(self, pixels: np.ndarray) -> np.ndarray:
        """Returns what the frozen layers make of images; the images if none is frozen."""
        return pixels if self._trunk is None else _by_batch(self._trunk, pixels)

    def logits(self, frontier: np.ndarray) -> np.ndarray:
        """Returns the answers, float (n, classes)."""
        return _by_batch(self._said, frontier)

    def begin(self, floor: Linear) -> Weights:
        """Puts the pretrained weights and a head back; returns what trains."""
        self.put(self._first)
        self.model.get_layer("logits").set_weights([floor.kernel, floor.bias])
        for state in (*self._moments, self._step):
            state.assign(tf.zeros_like(state))
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.Dropout):  # a row does not depend on the one before
                layer.seed_generator.state.assign([0, 0])
        return self.weights()

    def weights(self) -> Weights:
        """Returns a copy of what trains."""
        return [w.numpy() for w in self._weights]

    def put(self, weights: Weights) -> None:
        """Sets what trains."""
        for variable, value in zip(self._weights, weights, strict=True):
            variable.assign(value)

    def train(
        self,
        recipe: Recipe,
        x: np.ndarray,
        y: np.ndarray,
        seed: int,
        each_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> int:
        """Trains through a recipe and returns how many epochs that were.

        If `x` is twice as long as `y`, its second half has the mirrored images.
        """
        shares = tf.constant(recipe.decay**self._depth, tf.float32)
        random, per_epoch = np.random.default_rng(seed), -(-len(y) // BATCH)
        epochs = max(recipe.epochs, -(-recipe.steps // per_epoch))
        total, step = per_epoch * epochs, 0
        for epoch in range(epochs):
            order = random.permutation(len(y))
            for first in range(0, len(y), BATCH):
                rows, step = order[first : first + BATCH], step + 1
                warm = min(1.0, step / (WARM * total))
                past = max(0.0, step - WARM * total) / ((1 - WARM) * total)
                rate = recipe.rate * warm * 0.5 * (1 + math.cos(math.pi * past))
                seen = rows
                if recipe.flip:
                    seen = rows + len(y) * random.integers(0, 2, len(rows))
                self._train(
                    tf.constant(x[seen], tf.float32),
                    tf.constant(y[rows], tf.int32),
                    rate * shares,
                )
            each_epoch(epoch)
        return epochs

    def _update(self, x: tf.Tensor, y: tf.Tensor, rates: tf.Tensor) -> None:
        """Makes a step of Adam."""
        with tf.GradientTape() as tape, quick_pointwise_gradients(self._tail):
            logits = self._tail(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        gradients = tape.gradient(loss, self._weights)
        self._step.assign_add(1.0)
        rates *= tf.sqrt(1 - 0.999**self._step) / (1 - 0.9**self._step)
        count = len(self._weights)
        both = zip(self._moments[:count], self._moments[count:], strict=True)
        each = zip(self._weights, gradients, tf.unstack(rates), both, strict=True)
        for w, g, rate, (m, v) in each:
            m.assign(0.9 * m + 0.1 * g)
            v.assign(0.999 * v + 0.001 * g * g)
            w.assign_sub(rate * m / (tf.sqrt(v) + 1e-7))


def _by_batch(function: Callable[..., tf.Tensor], rows: np.ndarray) -> np.ndarray:
    parts = [
        function(tf.constant(rows[i : i + 100], tf.float32), training=False).numpy()
        for i in range(0, len(rows), 100)
    ]
    return np.concatenate(parts)


@functools.cache
def learner(classes: int, blocks: int, file: str) -> Learner:
    """Returns the only learner of its kind: it is traced once."""
    return Learner(classes, blocks, file)


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the log loss of each example."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=1))
    return total - shifted[np.arange(len(labels)), labels]


def fit_floor(features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Linear, float]:
    """Returns a run's floor, and its strength, which a fifth of each class has chosen."""
    random, out, classes = np.random.default_rng(seed), [], int(labels.max()) + 1
    for label in np.unique(labels):
        group = random.permutation(np.flatnonzero(labels == label))
        out.append(group[: int(0.2 * len(group))])
    held, strength = np.sort(np.concatenate(out)), 0.1
    rest = np.setdiff1d(np.arange(len(labels)), held)
    if len(held):
        costs = []
        for each in STRENGTHS:
            fitted = logistic(features[rest], labels[rest], classes, each)
            costs.append(losses(fitted(features[held]), labels[held]).mean())
        strength = STRENGTHS[int(np.argmin(costs))]
    return logistic(features, labels, classes, strength), strength


def drawn(labels: np.ndarray, count: int, tests: int, seed: int) -> dict[str, np.ndarray]:
    """Returns the indices of the examples of each split; another seed draws other ones."""
    order = np.random.default_rng(seed).permutation(len(labels))
    pool, train, val = order[tests:], [], []
    for label in range(int(labels.max()) + 1):
        group = pool[labels[pool] == label]
        wanted = max(2, round(count / len(pool) * len(group)))
        held = max(1, round(0.2 * wanted))
        val.append(group[:held])
        train.append(group[held:wanted])
    return {"train": np.concatenate(train), "val": np.concatenate(val), "test": order[:tests]}


def measure(name: str, seed: int, recipe_name: str, folder: Path, file: str) -> Row:
    """Returns the row of one training; and of a second one, if the recipe is in use."""
    base, count, tests = SETS[name]
    recipe, start = RECIPES[recipe_name], time.time()
    pixels, labels = load(base, SIZE, folder)
    classes, rows = int(labels.max()) + 1, drawn(labels, count, tests, seed)
    y = {split: labels[own] for split, own in rows.items()}
    model = learner(classes, recipe.blocks, file)
    model.begin(Linear(np.zeros((1280, classes), np.float32), np.zeros(classes, np.float32)))
    pooled = keras.Model(model.model.input, model.model.get_layer("logits").input)
    features = {split: _by_batch(pooled, pixels[own]) for split, own in rows.items()}
    x = {split: model.frontier(pixels[own]) for split, own in rows.items()}
    seen = x["train"]
    if recipe.flip:
        seen = np.concatenate([seen, model.frontier(pixels[rows["train"], :, ::-1])])
    floor, strength = fit_floor(features["train"], y["train"], seed)
    row: Row = {"set": name, "seed": seed, "recipe": recipe_name}
    row["n"], row["of"] = [len(own) for own in rows.values()], len(labels)
    end = _Ends(row, model, x, y)

    best: list[Any] = []

    def watch(epoch: int) -> None:
        said = model.logits(x["val"])
        key = (np.mean(said.argmax(axis=1) != y["val"]), losses(said, y["val"]).mean())
        if not best or key < best[0]:
            best[:] = [key, epoch, model.weights()]

    begin = model.begin(floor)
    row["epochs"] = model.train(recipe, seen, y["train"], seed, watch)
    final, row["best_epoch"] = model.weights(), best[1]
    end.note("floor", begin)
    for tag, weights in (("final", final), ("best", best[2])):
        for share in SHARES:
            end.note(f"{tag} {share}", _between(begin, weights, share))
    if recipe_name == IN_USE:
        both = {part: np.concatenate([each["train"], each["val"]]) for part, each in
                (("x", x), ("y", y), ("features", features))}  # fmt: skip
        begin = model.begin(logistic(both["features"], both["y"], classes, strength))
        model.train(recipe, both["x"], both["y"], seed)
        final = model.weights()
        end.note("refit floor", begin, held_out=False)
        for share in SHARES:
            end.note(f"refit {share}", _between(begin, final, share), held_out=False)
    row["seconds"] = round(time.time() - start, 1)
    return row


@dataclass(frozen=True)
class _Ends:
    """Writes into a row what weights give."""

    row: Row
    model: Learner
    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]

    def note(self, tag: str, weights: Weights, held_out: bool = True) -> None:
        """Keeps the accuracy on test examples, and which examples are wrong."""
        self.model.put(weights)
        wrong = self.model.logits(self.x["test"]).argmax(axis=1) != self.y["test"]
        self.row[tag] = {"test": float(1 - wrong.mean()), "missed": packed(wrong)}
        if held_out:
            said = self.model.logits(self.x["val"])
            wrong = said.argmax(axis=1) != self.y["val"]
            self.row[tag]["wrong"] = "".join("01"[int(each)] for each in wrong)
            self.row[tag]["val_loss"] = float(losses(said, self.y["val"]).mean())


def _between(begin: Weights, end: Weights, share: float) -> Weights:
    return [b + share * (w - b) for b, w in zip(begin, end, strict=True)]


def main() -> None:
    """Measures what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=".")
    parser.add_argument("--backbone", default="", help="another .keras file, such as of lite0.py")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--recipes", default="t4 3e-4 20")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--rules", action="store_true", help="measure nothing")
    parser.add_argument("--out", default=str(OUT))
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    out = Path(options.out)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(row["set"], row["seed"], row["recipe"]) for row in rows}
    wanted = [
        (name, int(seed), recipe)
        for recipe in options.recipes.split(",")
        for name in options.sets.split(",")
        for seed in options.seeds.split(",")
    ]
    for each in wanted:
        if each in known or options.rules:
            continue
        rows.append(measure(*each, Path(options.data), options.backbone))
        with out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(*each, f"{rows[-1]['seconds']} s", flush=True)
    rivals, others = OUT.with_name("rivals.jsonl"), []
    if out == OUT:
        others = [json.loads(line) for line in rivals.read_text().splitlines()]
    print(summary(rows, others))


if __name__ == "__main__":
    main()
