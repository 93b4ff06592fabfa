"""Whether adapters train on a base of 8-bit integers (Keras's `quantize`), and what it costs.

A small vision transformer learns five of the garments. Its copy then learns the other five by a new
head and adapters in all of its Dense and EinsumDense layers. The base is float32, or int8. Columns:
- test accuracy;
- off: how much the base's answers differ before training;
- merge_off: how much the model's answers differ once the adapters are merged, of float32 by
  `merge_lora`, of int8 as Keras does it when the model is saved and loaded;
- CPU time per step; megabytes of base and adapters.

Usage: python tools/bench/lora_int8.py [--seeds=3] [--epochs=10] [--size=32]
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import ftkeras
from ftkeras.console import table
from ftkeras.data.load import load_data
from ftkeras.inputs.image.decode import whole
from ftkeras.keras_internals import flat_layers
from ftkeras.model.lora import merge_lora

flags.DEFINE_integer("seeds", 3, "how many seeds")
flags.DEFINE_integer("epochs", 10, "epochs of each training")
flags.DEFINE_integer("size", 32, "side of the images, in pixels")
FLAGS = flags.FLAGS

WIDTH, HEADS, LAYERS, PATCH, BATCH, RANK = 128, 4, 2, 4, 32, 8
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def images(split: Any, size: int, classes: range) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of some classes, float32 (n, size, size, 3), -1..1, and labels from 0."""
    rows = np.flatnonzero(np.isin(split.labels, list(classes)))
    pixels = [
        tf.image.resize(whole(split.fetch(tf.constant(i, tf.int64))), (size, size)) for i in rows
    ]
    return np.stack(pixels) / 127.5 - 1, split.labels[rows] - classes[0]


def transformer(size: int) -> keras.Model:
    """Returns a vision transformer without its head."""
    layers = keras.layers
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(WIDTH, PATCH, PATCH, name="patches")(inputs)
    steps = (size // PATCH) ** 2
    x = layers.Reshape((steps, WIDTH))(x)
    places = keras.ops.zeros_like(x[..., 0], "int32") + keras.ops.arange(steps)
    x = layers.Add()([x, layers.Embedding(steps, WIDTH)(places)])
    for _ in range(LAYERS):
        normed = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(normed, normed)])
        inner = layers.Dense(4 * WIDTH, "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(WIDTH)(inner)])
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x), name="transformer")


def with_head(base: keras.Model, rate: float) -> keras.Model:
    """Returns a compiled classifier of five classes."""
    model = keras.Sequential([base, keras.layers.Dense(5, name="logits")])
    model.compile(keras.optimizers.AdamW(rate), LOSS, metrics=["accuracy"])
    return model


def adapt(base: keras.Model, precision: str, seed: int, train: Any, test: Any) -> dict[str, Any]:
    """Trains adapters and a head on a copy of the base; returns what came of it."""
    keras.utils.set_random_seed(seed)
    copy = keras.models.clone_model(base)
    copy.set_weights(base.get_weights())
    before = copy.predict(test[0], verbose=0)
    if precision == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of each layer that stays as it is
            copy.quantize("int8")
    off = float(np.abs(copy.predict(test[0], verbose=0) - before).max() / np.abs(before).max())
    size = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in copy.variables)
    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    for layer in flat_layers(copy):
        if isinstance(layer, kinds):
            layer.enable_lora(RANK, lora_alpha=2 * RANK)
    adapters = sum(math.prod(v.shape) * 4 for v in copy.variables if v.name.startswith("lora_"))
    model, start = with_head(copy, 1e-3), time.process_time()
    phase = ftkeras.Phase("lora", FLAGS.epochs, 1e-3, train=["head", "lora"])
    blocks = [ftkeras.Block("transformer", tuple(copy.layers))]
    unfreeze = ftkeras.StagedUnfreezing(model, [phase], blocks=blocks)
    model.fit(*train, batch_size=BATCH, epochs=FLAGS.epochs, callbacks=[unfreeze], verbose=0)
    seconds = (time.process_time() - start) / (FLAGS.epochs * math.ceil(len(train[1]) / BATCH))
    answers = model.predict(test[0], verbose=0)
    merged: Any = merge_lora(model) if precision == "float32" else _as_keras_saves(model)
    after = np.full_like(answers, np.nan) if merged is None else merged.predict(test[0], verbose=0)
    return {
        "accuracy": float((answers.argmax(1) == test[1]).mean()),
        "off": off,
        "merge_off": float(np.abs(after - answers).max() / np.abs(answers).max()),
        "milliseconds": 1000 * seconds,
        "base": size / 1e6,
        "adapters": adapters / 1e6,
    }


def _as_keras_saves(model: keras.Model) -> keras.Model | None:
    """Returns what Keras loads of a model that it saved; None if it cannot."""
    path = str(Path(tempfile.mkdtemp()) / "merged.keras")
    model.save(path)
    try:
        return keras.models.load_model(path)
    except ValueError as error:
        print(f"the saved model cannot be loaded: {str(error).splitlines()[0]}")
        return None


def main(_: list[str]) -> None:
    """Trains a base, then adapters on it, and prints the table."""
    data = load_data("starter", split={"val": None, "test": "test"})
    first, second = (
        [images(data.splits[s], FLAGS.size, part) for s in ("train", "test")]
        for part in (range(5), range(5, 10))
    )
    results: dict[str, list[dict[str, Any]]] = {"float32": [], "int8": []}
    for seed in range(FLAGS.seeds):
        keras.utils.set_random_seed(seed)
        base = transformer(FLAGS.size)
        with_head(base, 5e-4).fit(*first[0], batch_size=BATCH, epochs=FLAGS.epochs, verbose=0)
        for precision, rows in results.items():
            rows.append(adapt(base, precision, seed, *second))
            print(seed, precision, rows[-1], flush=True)
    names = list(results["int8"][0])
    cells = [
        (p, *(f"{statistics.mean(row[n] for row in rows):.4g}" for n in names))
        for p, rows in results.items()
    ]
    print(table(cells, ("base", *names)))


if __name__ == "__main__":
    app.run(main)
