"""A model's answers: about a whole split, or about image files that someone names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.data import decode, scan
from ftkeras.data.walk import files_under, is_utf8, shown
from ftkeras.errors import UserError
from ftkeras.evaluation.metrics import scores_from_logits
from ftkeras.model.inference import logits_function


def predict_logits(
    model: keras.Model, dataset: tf.data.Dataset, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits and labels of a data set, both in its order.

    Args:
        model: Takes raw 0..255 RGB float32 (b, size, size, 3), returns logits (b, classes).
        dataset: Finite; yields (images, labels) or (images, labels, weights) in batches.
        label: What to say while it runs, for example "evaluate test".

    Returns:
        Logits float32 (n, classes), and labels as the data set gives them, (n, ...).
    """
    batches = int(dataset.cardinality())
    answer = logits_function(model)
    logits, labels = [], []
    progress = Progress(label, batches if batches >= 0 else None)
    try:
        for images, targets, *_ in dataset:
            logits.append(answer(images).numpy())  # (b, classes)
            labels.append(targets.numpy())
            progress.advance()
    finally:
        progress.close()
    if not logits:
        return np.zeros((0, model.output_shape[-1]), np.float32), np.zeros(0, np.int64)
    return np.concatenate(logits), np.concatenate(labels)


@dataclass(frozen=True)
class FilePrediction:
    """What the model says of one file, or why it could not be asked.

    Args:
        file: The path as it was given or found.
        best: (class name, score) pairs, the best first; empty where there is an error.
        error: Why the file could not be read, or an empty string.
    """

    file: str
    best: tuple[tuple[str, float], ...] = ()
    error: str = ""


def expand_inputs(patterns: Sequence[str]) -> list[str]:
    """Returns the image files that files, folders and globs stand for, each once, in order.

    A file that is named stays, whatever it is. A folder gives the images anywhere under it.

    Raises:
        UserError: A pattern finds nothing.

    Example:
        >>> expand_inputs(["cat.jpg", "photos/", "more/*.png"])
        ['cat.jpg', 'photos/dog.jpg', 'more/owl.png']
    """
    files: dict[str, None] = {}  # an ordered set
    for pattern in patterns:
        if not is_utf8(pattern):
            found = []
        elif tf.io.gfile.isdir(pattern):
            found = sorted(filter(scan.is_image_name, files_under(pattern)))
        elif tf.io.gfile.exists(pattern):
            found = [pattern]
        else:
            matches = sorted(tf.io.gfile.glob(pattern))
            found = [path for path in matches if not tf.io.gfile.isdir(path)]
        if not found:
            raise UserError(
                f"predict: no images at {shown(pattern)!r}. Give image files, folders or globs."
            )
        files.update(dict.fromkeys(found))
    return list(files)


def predict_files(
    model: keras.Model,
    paths: Sequence[str],
    *,
    image_size: int,
    resize: str,
    class_names: Sequence[str],
    multi_label: bool,
    temperature: float = 1.0,
    top_k: int = 5,
    batch_size: int = 32,
) -> Iterator[FilePrediction]:
    """Yields the best classes of each file, in order; of an unreadable one, why it is so.

    Files are scanned, normalised, decoded and resized as those that training reads.

    Args:
        model: Takes raw 0..255 RGB float32 (n, image_size, image_size, 3), returns logits
            (n, classes).
        paths: The files.
        image_size: Side of the model's input, in pixels.
        resize: How images become square: crop, pad or squash.
        class_names: One name a class.
        multi_label: Scores are sigmoids instead of a softmax.
        temperature: What the logits are divided by.
        top_k: How many classes to give, at most.
        batch_size: Images a step.
    """
    verdicts = scan.scan_files(paths, "predict")
    readable = [verdict.path for verdict in verdicts if not verdict.reason]
    images = (
        tf.data.Dataset.from_tensor_slices(tf.constant(readable, tf.string))
        .map(
            lambda path: decode.decode_square(tf.io.read_file(path), image_size, resize),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(batch_size)
        .prefetch(1)
    )
    scores = _scores(model, images, multi_label, temperature, len(readable))
    for path, verdict in zip(paths, verdicts, strict=True):
        if verdict.reason:
            yield FilePrediction(path, error=verdict.reason)
            continue
        row = next(scores)  # (classes,)
        best = np.argsort(-row, kind="stable")[:top_k]
        yield FilePrediction(path, tuple((class_names[c], float(row[c])) for c in best))


def _scores(
    model: keras.Model, images: tf.data.Dataset, multi_label: bool, temperature: float, total: int
) -> Iterator[np.ndarray]:
    """Yields the scores (classes,) of each image."""
    answer = logits_function(model)
    progress = Progress("predict", total)
    try:
        for batch in images:
            yield from scores_from_logits(answer(batch).numpy() / temperature, multi_label)
            progress.advance(len(batch))
    finally:
        progress.close()
