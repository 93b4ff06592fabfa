"""The choice of models for a soup, and a copy of the linear probe's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from ftkeras.phases import StagedUnfreezing
from ftkeras.phases.blend import Weights, weights_of_model
from ftkeras.state_file import Tree


def greedy(scores: Sequence[float], score_of: Callable[[Sequence[int]], float]) -> list[int]:
    """Returns which models a greedy soup takes (Wortsman et al. 2022, "Model soups").

    In order, from the best, each model is kept if the mean with it is no worse than without it.

    Args:
        scores: How good each model is alone; more is better.
        score_of: From the indices of some models to how good their mean is.
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i])  # the first among equals
    kept, best = [order[0]], scores[order[0]]
    for candidate in order[1:]:
        score = score_of([*kept, candidate])
        if score >= best:
            kept, best = [*kept, candidate], score
    return kept


class KeepProbe(keras.callbacks.Callback):
    """Keeps a copy of the weights at the begin of the second phase.

    Args:
        model: The model.
        unfreeze: Knows the phase; it comes before this among the callbacks of `fit`.
    """

    def __init__(self, model: keras.Model, unfreeze: StagedUnfreezing):
        super().__init__()
        self.weights: Weights | None = None
        """The copy; None while the first phase runs."""
        self._subject = model
        self._unfreeze = unfreeze

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.weights is None and self._unfreeze.phase is not self._unfreeze.phases[0]:
            self.weights = weights_of_model(self._subject)

    def state(self) -> Tree:
        """Returns the copy."""
        return {"weights": self.weights}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self.weights = state["weights"]
