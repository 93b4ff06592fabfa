"""A model's answers on a split, kept in the run: what reports and comparisons start from."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.files import read_arrays, write_arrays
from ftkeras.run import Run


@dataclass(frozen=True)
class Predictions:
    """What a model said of each example of a split, before any temperature.

    Args:
        logits: float32 (n, classes).
        labels: int32 (n,) class indices, or float32 (n, classes) multi-hot.
        ids: The examples' keys, str (n,), as in `splits.csv`.
    """

    logits: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


def save_predictions(run: Run, split: str, predictions: Predictions) -> None:
    """Writes `predictions/SPLIT.npz` into a run."""
    arrays = {
        "logits": predictions.logits.astype(np.float32),
        "labels": predictions.labels,
        "ids": np.asarray(predictions.ids, np.str_),
    }
    tf.io.gfile.makedirs(run.path("predictions"))
    write_arrays(run.path("predictions", f"{split}.npz"), arrays)


def saved(run: Run, split: str) -> bool:
    """Returns whether a run has such predictions."""
    return bool(tf.io.gfile.exists(run.path("predictions", f"{split}.npz")))


def load_predictions(run: Run, split: str) -> Predictions:
    """Returns what `save_predictions` wrote.

    Raises:
        UserError: The run has no such predictions.
    """
    if not saved(run, split):
        raise UserError(
            f"{run.folder}: the run has no predictions/{split}.npz. "
            f"`ftkeras evaluate {shlex.quote(run.folder)} --split={split}` writes it."
        )
    arrays = read_arrays(run.path("predictions", f"{split}.npz"))
    return Predictions(arrays["logits"], arrays["labels"], arrays["ids"])
