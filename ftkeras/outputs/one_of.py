"""Exactly one of several classes."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from ftkeras.measures.linear import Linear, logistic
from ftkeras.measures.metrics import softmax
from ftkeras.outputs.base import Cells
from ftkeras.outputs.classes import Classes, Ranked


@dataclass(frozen=True)
class OneOf(Classes):
    """Exactly one of several classes: a softmax, trained by cross-entropy.

    Args:
        class_names: The classes, in the order of the logits.

    Example:
        >>> OneOf(("cat", "dog")).values_of([("dog",), None, ("cat",)])
        array([ 1, -1,  0], dtype=int32)
    """

    kind = "classes"
    losses = ("cross_entropy", "binary_cross_entropy", "focal")
    watched = "accuracy"
    exclusive = True
    fewest = 2

    def values_of(self, cells: Cells) -> np.ndarray:
        index_of = {name: i for i, name in enumerate(self.class_names)}
        return np.array([index_of[cell[0]] if cell else -1 for cell in cells], np.int32)

    @classmethod
    def loss_named(cls, name: str, gamma: float) -> keras.losses.Loss:
        if name == "focal":
            # alpha=1: weighing the classes is the business of data.balance.
            return keras.losses.CategoricalFocalCrossentropy(
                alpha=1.0, gamma=gamma, from_logits=True
            )
        if name == "binary_cross_entropy":
            return keras.losses.BinaryCrossentropy(from_logits=True)
        return keras.losses.CategoricalCrossentropy(from_logits=True)

    def metrics(self) -> list[keras.metrics.Metric]:
        return [keras.metrics.CategoricalAccuracy(name="accuracy")]

    def bias(self, values: np.ndarray) -> np.ndarray:
        """Returns the bias with which untrained logits already predict the class frequencies.

        Without it the first epoch is spent on learning how common each class is (Karpathy, "A
        recipe for training neural networks", 2019). Counts have one added, so that a class that was
        never seen stays finite.

        Args:
            values: Class indices, int (n,).

        Example:
            >>> OneOf(("cat", "dog")).bias(np.array([0, 0, 0, 1])).round(3)
            array([-0.405, -1.099], dtype=float32)
        """
        counts = np.bincount(values, minlength=self.units) + 1.0
        return np.log(counts / counts.sum()).astype(np.float32)

    def linear(
        self,
        features: np.ndarray,
        values: np.ndarray,
        strength: float,
        weights: np.ndarray | None = None,
    ) -> Linear:
        return logistic(features, values, self.units, strength, weights)

    def cells_beside(self, name: str, answer: Ranked) -> dict[str, str]:
        best, score = (answer[0][0], f"{answer[0][1]:.6f}") if answer else ("", "")
        return {name: best, f"{name}_score": score}

    def listed(
        self, values: np.ndarray, kept: np.ndarray, temperature: float
    ) -> tuple[dict[str, list[str]], np.ndarray]:
        """Returns label, predicted and score; the surest mistakes are the worst."""
        scores, best, every = softmax(kept / temperature), kept.argmax(axis=1), np.arange(len(kept))
        score = scores[every, best]  # (n,)
        badness = np.where(best == values, 1 - score, 1 + score - scores[every, values])
        cells = {
            "label": [self.class_names[c] for c in values],
            "predicted": [self.class_names[c] for c in best],
            "score": [f"{value:.6f}" for value in score],
        }
        return cells, badness

    def made_up(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(self.units), np.eye(self.units)
