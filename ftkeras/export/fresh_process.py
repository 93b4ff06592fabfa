"""Asks a SavedModel as a server would: a script of its own, which imports TensorFlow alone.

Besides, it imports the packages whose operations the model needs, which a server must link.

    python fresh_process.py [PACKAGE ...]

From standard input it reads lines of JSON. The first one is the path of a SavedModel. So the
imports happen while the SavedModel is written. The second line is [QUESTIONS, ANSWERS]. So the
SavedModel is loaded while the questions are written. Times are measured when the input ends, so
that the caller can work until then. If the input ends before the second line, the caller has ended:
nothing is asked.

QUESTIONS is a folder with raw examples, as files in the order of their names or in `raw.npy`; with
those that can be read, prepared for the model, in `prepared.npz`; and with `names.json`, what
arguments and features are called, and strings for more arguments.
ANSWERS becomes an .npz file with the answers of each signature, under names such as
"images/scores", and how long it took, such as "seconds/images/32".
"""

from __future__ import annotations

import base64
import functools
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

if __name__ == "__main__":
    # TensorFlow imports Keras, and Keras imports these if they are installed, which takes as long
    # again. Nothing here needs them.
    hidden = ("matplotlib", "pandas", "scipy", "sklearn")
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an ImportError

import tensorflow as tf  # noqa: E402

BATCHES = (1, 32)
_REPEATS, _SECONDS = 9, 1.0  # of a measurement, at most
_LONG = 5.0  # seconds; what takes longer is not repeated


def main(lines: TextIO) -> None:
    """Loads a SavedModel, asks all signatures, and measures how long they take at the end."""
    signatures = tf.saved_model.load(_next_of(lines)).signatures
    questions, answers = _next_of(lines)
    names = json.loads(Path(questions, "names.json").read_text())
    raw: Any = [path.read_bytes() for path in sorted(Path(questions).glob("*.raw"))]
    if not raw:
        raw = np.load(Path(questions, "raw.npy"), allow_pickle=False)
    with np.load(Path(questions, "prepared.npz"), allow_pickle=False) as arrays:
        known: dict[str, Any] = dict(arrays)
    for argument, strings in names["more"].items():
        known[argument] = [base64.b64decode(one) for one in strings]
    known |= {names["raw"]: raw, "examples": [example_of(one, names["feature"]) for one in raw]}
    results: dict[str, Any] = {}
    batches: dict[str, dict[str, Any]] = {}
    for name in signatures:
        batches[name] = _batch_of(signatures[name], known)
        for output, values in signatures[name](**_constants(batches[name])).items():
            results[f"{name}/{output}"] = _as_array(values)
    lines.read()  # until the caller works no more
    for name in {"serving_default", names["prepared"]} & set(batches):
        for size in BATCHES:
            question = {argument: [asked[0]] * size for argument, asked in batches[name].items()}
            call = functools.partial(signatures[name], **_constants(question))
            results[f"seconds/{name}/{size}"] = median_seconds(call)
    if "ftkeras" in sys.modules:  # TensorFlow itself imports keras, so that may be there
        sys.exit("this process was to import TensorFlow alone, but ftkeras is there, too")
    np.savez(answers, **results)


def _next_of(lines: TextIO) -> Any:
    """Returns what the next line holds; ends the process if there is none."""
    line = lines.readline()
    return json.loads(line) if line else sys.exit("the caller has ended")


def _batch_of(ask: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a signature, by name."""
    batch: dict[str, Any] = {}
    for argument, spec in ask.structured_input_signature[1].items():
        asked = known[argument]
        shape = [spec.shape[0], *np.shape(asked)[1:]]  # a fixed batch may repeat some
        batch[argument] = asked if spec.shape[0] is None else np.resize(asked, shape)
    return batch


def _constants(batch: dict[str, Any]) -> dict[str, tf.Tensor]:
    return {argument: tf.constant(values) for argument, values in batch.items()}


def example_of(raw: Any, feature: str) -> bytes:
    """Returns a serialized tf.Example with one raw example: bytes, or an array."""
    if isinstance(raw, bytes):
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[raw]))
    elif np.issubdtype(raw.dtype, np.integer):
        value = tf.train.Feature(int64_list=tf.train.Int64List(value=raw.ravel()))
    else:
        value = tf.train.Feature(float_list=tf.train.FloatList(value=raw.ravel()))
    features = tf.train.Features(feature={feature: value})
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
    for package in sys.argv[1:]:
        importlib.import_module(package)
    main(sys.stdin)
