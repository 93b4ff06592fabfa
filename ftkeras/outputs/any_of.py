"""Any number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import counted
from ftkeras.errors import UserError
from ftkeras.measures.linear import logistic_each
from ftkeras.measures.metrics import sigmoid
from ftkeras.outputs.base import Cells
from ftkeras.outputs.classes import Classes, Ranked

_PREDICTED = 0.5  # the score from which on a label counts as predicted


class Decided(tuple[tuple[str, float], ...]):
    """(label, score) pairs, the best first, and all labels that count, as `predicted`."""

    predicted: tuple[str, ...]

    def __new__(cls, ranked: Ranked, predicted: tuple[str, ...]) -> Decided:
        made = super().__new__(cls, ranked)
        made.predicted = predicted
        return made


@dataclass(frozen=True)
class AnyOf(Classes):
    """Any number of labels: a sigmoid each, trained by binary cross-entropy.

    Args:
        class_names: The labels, in the order of the logits.
        thresholds: The score from which on each label counts as predicted; 0.5 each if left out.

    Raises:
        UserError: There are more or fewer thresholds than labels, or one is not between 0 and 1.
    """

    thresholds: Sequence[float] | None = None
    kind = "labels"
    losses = ("binary_cross_entropy", "focal")
    watched = "loss"
    exclusive = False
    fewest = 1

    def __post_init__(self) -> None:
        for level in self.thresholds or ():
            if not isinstance(level, (int, float)) or not 0 < level < 1:
                raise UserError(f"a threshold is a number between 0 and 1, not {level!r}.")
        if self.thresholds is not None and len(self.thresholds) != self.units:
            given, labels = counted(len(self.thresholds), "threshold"), counted(self.units, "label")
            raise UserError(f"there must be one threshold per label, not {given} for {labels}.")

    @classmethod
    def cell(cls, text: str) -> tuple[str, ...]:
        return tuple(filter(None, map(str.strip, text.split(";"))))

    def values_of(self, cells: Cells) -> np.ndarray:
        index_of = {name: i for i, name in enumerate(self.class_names)}
        hot = np.zeros((len(cells), self.units), np.float32)
        for row, names in zip(hot, cells, strict=True):
            row[[index_of[name] for name in names or ()]] = 1.0
        return hot

    @classmethod
    def loss_named(cls, name: str, gamma: float) -> keras.losses.Loss:
        if name == "focal":
            return keras.losses.BinaryFocalCrossentropy(gamma=gamma, from_logits=True)
        return keras.losses.BinaryCrossentropy(from_logits=True)

    def metrics(self) -> list[keras.metrics.Metric]:
        return [
            # Of single labels; `evaluation.json` has it by the same name.
            keras.metrics.BinaryAccuracy(threshold=0.0, name="label_accuracy"),
            keras.metrics.AUC(multi_label=True, from_logits=True, name="auc"),
        ]

    def bias(self, values: np.ndarray) -> np.ndarray:
        """Returns the bias with which untrained logits already predict the labels' frequencies.

        These are log odds; see `OneOf.bias`.

        Args:
            values: Multi-hot (n, labels).
        """
        present = (values > 0).sum(axis=0) + 1.0
        return (np.log(present) - np.log(len(values) + 2.0 - present)).astype(np.float32)

    linear = staticmethod(logistic_each)

    @property
    def levels(self) -> Sequence[float]:
        """The score from which on each label counts."""
        return self.thresholds or [_PREDICTED] * self.units

    def decided(self, scores: np.ndarray) -> tuple[str, ...]:
        """Returns the labels whose scores (labels,) reach their thresholds, the best first."""
        best = np.argsort(-scores, kind="stable")
        return tuple(self.class_names[c] for c in best if scores[c] >= self.levels[c])

    def answer(self, scores: np.ndarray, top_k: int, *, alone: bool) -> Decided:
        ranked = super().answer(scores, top_k, alone=alone)
        return Decided(ranked, self.decided(scores))

    def cells_beside(self, name: str, answer: Ranked) -> dict[str, str]:
        return {name: ";".join(answer.predicted if isinstance(answer, Decided) else ())}

    def cells(self, name: str, answer: Ranked | None, *, alone: bool) -> dict[str, str]:
        cells = super().cells(name, answer, alone=alone)
        return {**self.cells_beside("predicted", answer or ()), **cells} if alone else cells

    def measure(self, values: np.ndarray, kept: np.ndarray, **options: Any) -> dict[str, Any]:
        return super().measure(values, kept, thresholds=self.thresholds, **options)

    def listed(
        self, values: np.ndarray, kept: np.ndarray, temperature: float
    ) -> tuple[dict[str, list[str]], np.ndarray]:
        """Returns label, predicted and wrong: how many labels are; the most are the worst."""
        scores = sigmoid(kept / temperature)  # (n, labels)
        right, predicted = values >= 0.5, scores >= np.array(self.levels)
        wrong = (right != predicted).sum(axis=1)
        cells = {
            "label": [self._joined(row) for row in right],
            "predicted": [self._joined(row) for row in predicted],
            "wrong": [str(count) for count in wrong],
        }
        return cells, wrong + np.abs(scores - values).mean(axis=1) / 2

    def _joined(self, row: np.ndarray) -> str:
        return ";".join(self.class_names[c] for c in np.flatnonzero(row))

    def made_up(self) -> tuple[np.ndarray, np.ndarray]:
        return np.eye(self.units), np.eye(self.units)

    def served(self, scores: tf.Tensor) -> dict[str, tf.Tensor]:
        answers = super().served(scores)
        needed = tf.gather(tf.constant(list(self.levels), tf.float32), answers["class_indices"])
        return answers | {"predicted": answers["scores"] >= needed}
