"""Asks a SavedModel as a server would: a script of its own, which imports TensorFlow alone.

    python fresh_process.py SAVED_MODEL QUESTIONS ANSWERS

QUESTIONS is a folder with image files and `images.npy`, the same images decoded and resized.
ANSWERS becomes an .npz file with what both signatures said, under names such as "images/scores".
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def main(saved_model: str, questions: str, answers: str) -> None:
    signatures = tf.saved_model.load(saved_model).signatures
    encoded = [path.read_bytes() for path in sorted(Path(questions).glob("*.image"))]
    images = np.load(Path(questions, "images.npy"), allow_pickle=False)
    asked = {
        "serving_default": signatures["serving_default"](image_bytes=tf.constant(encoded)),
        "images": signatures["images"](images=tf.constant(images)),
    }
    given: dict[str, Any] = {
        f"{signature}/{name}": _as_array(values)
        for signature, outputs in asked.items()
        for name, values in outputs.items()
    }
    if "ftkeras" in sys.modules:  # TensorFlow itself imports keras, so that may be there
        sys.exit("this process was to import TensorFlow alone, but ftkeras is there, too")
    np.savez(answers, **given)


def _as_array(values: tf.Tensor) -> np.ndarray:
    """Strings become NumPy's own kind, which a file holds without pickling."""
    if values.dtype == tf.string:
        return np.char.decode(values.numpy().astype("S"), "utf-8")
    return values.numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])
