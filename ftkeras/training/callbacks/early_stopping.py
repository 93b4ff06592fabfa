"""Ends training once a metric no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from ftkeras.phases.best import BestEpoch
from ftkeras.phases.phase import Until
from ftkeras.state_file import Tree


class EarlyStopping(keras.callbacks.Callback):
    """Ends training once a metric no longer improves; several fits are one training.

    Args:
        metric: A logged metric; the direction follows from its name.
        patience: How many epochs without improvement end the training.
        min_delta: The smallest change that counts as an improvement.
    """

    def __init__(self, metric: str, patience: int, min_delta: float):
        super().__init__()
        self._until = Until(metric, patience, min_delta)
        self._best = BestEpoch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._best.judge(self._until, epoch, logs or {}, "training.early_stopping.metric")
        if self._best.over(self._until):
            self.model.stop_training = True

    def state(self) -> Tree:
        """Returns the best value, and how long it has been waiting for a better one."""
        return {"best": self._best.numbers()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self._best = BestEpoch.of(state["best"])
