"""Ends training once a metric no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from ftkeras.phases.phase import larger_is_better
from ftkeras.training.resume.state_file import Tree

Logs = dict[str, Any]


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Ends training once a metric no longer improves; several fits are one training.

    Args:
        metric: A logged metric; the direction follows from its name.
        patience: How many epochs without improvement end the training.
        min_delta: The smallest change that counts as an improvement.
    """

    _REMEMBERED = ("wait", "best", "best_epoch", "stopped_epoch")

    def __init__(self, metric: str, patience: int, min_delta: float):
        mode: Any = "max" if larger_is_better(metric) else "min"
        super().__init__(metric, min_delta=min_delta, patience=patience, mode=mode)
        super().on_train_begin()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Keras would forget here what was the best."""

    def state(self) -> Tree:
        """Returns the best value, and how long it has been waiting for a better one."""
        return {name: getattr(self, name) for name in self._REMEMBERED}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        for name in self._REMEMBERED:
            setattr(self, name, state[name])
