"""Proof that an exported model answers as the trained one does."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from ftkeras.data import decode
from ftkeras.errors import TrainingError
from ftkeras.evaluation.metrics import scores_from_logits

TOLERANCE = 1e-4
"""The largest difference between two scores (0..1) that counts as the same answer."""

_EXIF_ORIENTATION = 0x0112


def golden_images() -> list[bytes]:
    """Returns small encoded images of the kinds that servers meet, the same every time.

    An ordinary JPEG, a grey PNG, a PNG with alpha, a JPEG that EXIF rotates, and a tiny PNG.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    picture = Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)  # soft colours
    colour = picture.convert("RGB")
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6  # shown after a quarter turn
    return [
        _encoded(colour, "JPEG"),
        _encoded(colour.convert("L"), "PNG"),
        _encoded(picture, "PNG"),
        _encoded(colour, "JPEG", exif=exif),
        _encoded(colour.resize((5, 3)), "PNG"),
    ]


def check_saved_model(
    path: str | os.PathLike[str],
    model: keras.Model,
    golden: Sequence[bytes],
    *,
    class_names: Sequence[str],
    image_size: int,
    resize: str,
    multi_label: bool,
) -> float:
    """Compares a SavedModel, in a fresh process that imports TensorFlow alone, with its model.

    Both run on the CPU, so that an accelerator's rounding or a full memory does not decide.

    Args:
        path: The SavedModel's folder, where another process can read it.
        model: Takes raw 0..255 RGB float32 (n, image_size, image_size, 3), returns logits.
        golden: Encoded images to ask about, at least one.
        class_names: One name a class.
        image_size: Side of the model's input, in pixels.
        resize: How images become square: crop, pad or squash.
        multi_label: Whether scores are sigmoids.

    Returns:
        The largest difference between any two scores.

    Raises:
        TrainingError: The SavedModel could not be asked, or answered differently.
    """
    with tf.device("CPU:0"):
        images = decode.decode_and_resize(tf.constant(list(golden)), image_size, resize)
        logits = model(images, training=False)
    expected = scores_from_logits(logits.numpy(), multi_label)  # (n, classes)
    answers = _ask_in_fresh_process(os.fspath(path), golden, images.numpy())
    return max(
        _compare(signature, answers, expected, class_names)
        for signature in ("serving_default", "images")
    )


def _compare(
    signature: str, answers: dict[str, np.ndarray], expected: np.ndarray, class_names: Sequence[str]
) -> float:
    """Returns the largest difference of scores; raises TrainingError where it is too large."""
    indices = answers[f"{signature}/class_indices"]  # (n, classes)
    difference = np.abs(
        answers[f"{signature}/scores"] - np.take_along_axis(expected, indices, axis=1)
    )
    if not difference.max() <= TOLERANCE:  # so that NaN fails, too
        raise TrainingError(
            f"export: the SavedModel's signature {signature!r} and the Keras model disagree by "
            f"{difference.max():.2g} in a score, and {TOLERANCE:g} is allowed"
        )
    if not np.array_equal(answers[f"{signature}/class_names"], np.array(class_names)[indices]):
        raise TrainingError(
            f"export: the SavedModel's signature {signature!r} gives other class names"
        )
    return float(difference.max())


def _ask_in_fresh_process(
    path: str, golden: Sequence[bytes], images: np.ndarray
) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as scratch:
        for i, encoded in enumerate(golden):
            Path(scratch, f"{i:06d}.image").write_bytes(encoded)
        np.save(Path(scratch, "images.npy"), images)
        answers = Path(scratch, "answers.npz")
        script = Path(__file__).with_name("fresh_process.py")
        done = subprocess.run(
            [sys.executable, script, path, scratch, answers],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise TrainingError(f"export: the SavedModel cannot be served: {last}")
        with np.load(answers, allow_pickle=False) as arrays:
            return dict(arrays)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
