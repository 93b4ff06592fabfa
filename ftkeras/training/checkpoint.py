"""Checkpoints: the weights after the last epoch, and those of the best epoch."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import keras
import tensorflow as tf

from ftkeras.errors import TrainingError, did_you_mean
from ftkeras.phases.phase import larger_is_better
from ftkeras.training.averaging import AveragedWeights
from ftkeras.training.room import check_room
from ftkeras.training.run import Run


def save_weights(model: keras.Model, run: Run, name: str) -> None:
    """Writes `checkpoints/NAME.weights.h5` whole: a crash leaves the one before."""
    final = run.path("checkpoints", f"{name}.weights.h5")
    temporary = run.path("checkpoints", f"{name}-new.weights.h5")
    check_room(temporary, model)
    model.save_weights(temporary)
    tf.io.gfile.rename(temporary, final, overwrite=True)


def load_weights(model: keras.Model, run: Run, name: str) -> None:
    """Loads what `save_weights` wrote."""
    model.load_weights(run.path("checkpoints", f"{name}.weights.h5"))


class Checkpoints(keras.callbacks.Callback):
    """Keeps the last and the best weights of a run.

    Args:
        run: Where they go.
        monitor: The logged metric that says which epoch is the best; its name tells the direction.
        average: Where given, the best weights are the averaged ones, which validation measured.
    """

    def __init__(self, run: Run, monitor: str, average: AveragedWeights | None = None):
        super().__init__()
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._best_loss = math.inf
        self._run = run
        self._monitor = monitor
        self._average = average

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        save_weights(self.model, self._run, "last")
        if self._monitor not in logs:
            raise TrainingError(
                f"training.monitor: no metric {self._monitor!r} is logged."
                f"{did_you_mean(self._monitor, logs)} Logged: {', '.join(logs)}."
            )
        value = float(logs[self._monitor])
        loss = float(logs.get("val_loss", logs["loss"]))
        if self._improves(value, loss):
            self.best, self.best_epoch, self._best_loss = value, epoch, loss
            with contextlib.nullcontext() if self._average is None else self._average.swapped():
                save_weights(self.model, self._run, "best")

    def _improves(self, value: float, loss: float) -> bool:
        if self.best is None:
            return True
        if value == self.best:  # common for the accuracy of a small split
            return loss < self._best_loss
        return value > self.best if larger_is_better(self._monitor) else value < self.best
