"""The best epoch of a phase that ends on a metric, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ftkeras.errors import TrainingError
from ftkeras.phases.phase import Phase


class BestEpoch:
    """Watches a phase's metric, and keeps the weights of the epoch where it was best."""

    def __init__(self) -> None:
        self._value: float | None = None
        self._waited = 0
        self._weights: list[np.ndarray] = []

    def over(self, phase: Phase, logs: Mapping[str, Any], model: keras.Model) -> bool:
        """Looks at an epoch's logs; returns whether the phase should end."""
        until = phase.until
        if until is None:
            return False
        if until.metric not in logs:
            raise TrainingError(
                f"phase {phase.name!r}: until.metric {until.metric!r} is not logged. "
                f"Logged: {', '.join(logs)}."
            )
        value = float(logs[until.metric])
        if until.improves(value, self._value):
            self._value, self._waited = value, 0
            if until.restore_best:
                self._weights = [weight.numpy() for weight in model.weights]
            return False
        self._waited += 1
        return self._waited >= until.patience

    def restore(self, model: keras.Model) -> None:
        """Puts the best epoch's weights back."""
        if self._weights:
            for variable, value in zip(model.weights, self._weights, strict=True):
                variable.assign(value)

    def state(self) -> dict[str, Any]:
        """Returns the best value, its weights, and how many epochs were no better."""
        return {"value": self._value, "waited": self._waited, "weights": self._weights}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self._value, self._waited = state["value"], state["waited"]
        self._weights = list(state["weights"])
