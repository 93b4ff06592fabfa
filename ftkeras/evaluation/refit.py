"""What a run keeps that was trained once more, on training and validation data together."""

from __future__ import annotations

import tensorflow as tf

from ftkeras.run import Run

FILE = "refit.json"
"""In a run: how many `examples` and `epochs`, the `share` of the fine-tuned weights that is kept,
and the `temperatures` that the model before gave on the validation split."""


def was_refitted(run: Run) -> bool:
    """Whether the run's model was trained on the validation split, too."""
    return bool(tf.io.gfile.exists(run.path(FILE)))


def temperatures_before_refit(run: Run) -> dict[str, float]:
    """Returns the temperatures by output: those that the split gave while it was held out."""
    return dict(run.read_json(FILE)["temperatures"]) if was_refitted(run) else {}
