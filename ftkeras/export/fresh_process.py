"""Asks a SavedModel as a server would: a script of its own, which imports TensorFlow alone.

    python fresh_process.py SAVED_MODEL QUESTIONS ANSWERS

QUESTIONS is a folder with image files in the order of their names, and `images.npy`: those that
can be read, decoded and resized. ANSWERS becomes an .npz file with what each signature said, under
names such as "images/scores", and how long it took, such as "seconds/images/32".
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

BATCHES = (1, 32)
_REPEATS, _SECONDS = 9, 1.0  # of a measurement, at most
_LONG = 5.0  # seconds; what takes longer is not asked again


def main(saved_model: str, questions: str, answers: str) -> None:
    signatures = tf.saved_model.load(saved_model).signatures
    files = [path.read_bytes() for path in sorted(Path(questions).glob("*.image"))]
    images = np.load(Path(questions, "images.npy"), allow_pickle=False)
    results: dict[str, Any] = {}
    for name in signatures:
        ((argument, spec),) = signatures[name].structured_input_signature[1].items()
        ask = signatures[name]
        batch = {
            "image_bytes": files,
            "examples": [_example(file) for file in files],
            "images": images if spec.shape[0] is None else np.resize(images, spec.shape.as_list()),
        }[argument]
        for output, values in ask(**{argument: tf.constant(batch)}).items():
            results[f"{name}/{output}"] = _as_array(values)
        if name in ("serving_default", "images"):
            for size in BATCHES:
                question = tf.constant([batch[0]] * size)
                call = functools.partial(ask, **{argument: question})
                results[f"seconds/{name}/{size}"] = median_seconds(call)
    if "ftkeras" in sys.modules:  # TensorFlow itself imports keras, so that may be there
        sys.exit("this process was to import TensorFlow alone, but ftkeras is there, too")
    np.savez(answers, **results)


def _example(file: bytes) -> bytes:
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    features = tf.train.Features(feature={"image/encoded": value})
    return tf.train.Example(features=features).SerializeToString()


def median_seconds(call: Callable[[], Any]) -> float:
    """Returns how long a call takes, after a first one that prepares things."""

    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    first = once()
    if first > _LONG:
        return first
    taken: list[float] = []
    while len(taken) < _REPEATS and sum(taken) < _SECONDS:
        taken.append(once())
    return float(np.median(taken))


def _as_array(values: tf.Tensor) -> np.ndarray:
    """Strings become NumPy's own kind, which a file holds without pickling."""
    if values.dtype == tf.string:
        return np.char.decode(values.numpy().astype("S"), "utf-8")
    return values.numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])
