"""Numerical trouble: a loss that is no number any more, or explodes."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

import keras

from ftkeras.phases.callback import Logs, StagedUnfreezing
from ftkeras.state_file import Tree

_FIRST, _LATEST, _WINDOW = 10, 5, 100  # steps
_LEAST = 0.01  # a tiny loss may rise a thousandfold without harm
_LEAST_FROM_FLOOR = 0.3  # the floor fits its examples closely; dropout alone raises that loss


class Divergence(Exception):
    """Training cannot continue; the message has the reason."""


class DivergenceWatch(keras.callbacks.Callback):
    """Raises Divergence out of `fit` if the loss is not finite, or explodes.

    Keras passes each step's loss as a number, so reading it costs nothing. The number is the mean
    since the epoch began, from which the step's own loss follows. A loss explodes if the median of
    the latest steps is `explosion` times two other medians: that of the last hundred steps and that
    of the run's first steps. So a new phase with stronger augmentation, or a single odd batch, does
    not count. If both medians are below 0.01 (0.3 if the head starts from the floor), that number
    is used.

    Args:
        unfreeze: The phases.
        explosion: How many times the usual loss is an explosion; None for no limit.
        from_floor: Whether the head starts from a linear model, so that the first loss is near 0.
    """

    def __init__(
        self, unfreeze: StagedUnfreezing, explosion: float | None, from_floor: bool = False
    ):
        super().__init__()
        self._least = _LEAST_FROM_FLOOR if from_floor else _LEAST
        self._unfreeze = unfreeze
        self._explosion = explosion
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._steps, self._mean = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self._unfreeze.position[1] == 0:  # otherwise the epoch resumes, with its mean
            self._steps, self._mean = 0, 0.0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        mean = float((logs or {})["loss"])
        if not math.isfinite(mean):
            raise Divergence(f"the loss is {mean}")
        # A call has one step, or several: then this is their mean.
        steps = max(self._unfreeze.position[1], self._steps + 1)
        loss = (mean * steps - self._mean * self._steps) / (steps - self._steps)
        self._steps, self._mean = steps, mean
        self._recent.append(loss)
        if len(self._first) < _FIRST:
            self._first.append(loss)
        elif self._explosion is not None and len(self._recent) > 2 * _LATEST:
            self._compare(self._explosion)

    def _compare(self, explosion: float) -> None:
        recent = list(self._recent)
        latest = statistics.median(recent[-_LATEST:])
        before = statistics.median(recent[:-_LATEST])
        usual = max(before, statistics.median(self._first), self._least)
        if latest > explosion * usual:
            raise Divergence(f"the loss explodes: {latest:.3g}; before it was {usual:.3g}")

    def state(self) -> Tree:
        """Returns the losses to compare with."""
        recent = list(self._recent)
        return {"first": self._first, "recent": recent, "steps": self._steps, "mean": self._mean}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self._first, self._recent = list(state["first"]), deque(state["recent"], _WINDOW)
        self._steps, self._mean = state["steps"], state["mean"]
