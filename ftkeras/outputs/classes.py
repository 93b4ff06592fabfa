"""What the two kinds of output with classes share: logits, scores, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.measures.calibration import fit_temperature
from ftkeras.measures.metrics import log_losses
from ftkeras.measures.results import evaluate_predictions
from ftkeras.outputs.base import Cells, Output
from ftkeras.outputs.ending import Ending, ending_of
from ftkeras.outputs.smoothing import Smoothed

if TYPE_CHECKING:
    from ftkeras.config.schema import LossConfig

Ranked = tuple[tuple[str, float], ...]
"""(class name, score) pairs, the best first."""


@dataclass(frozen=True)
class Classes(Output):
    """An output with a logit per class.

    Args:
        class_names: The classes or labels, in the order of the logits.
    """

    class_names: tuple[str, ...]
    exclusive: ClassVar[bool]
    """Whether exactly one class is right; otherwise each is a question of its own."""
    fewest: ClassVar[int]
    """How many classes there must be."""

    @classmethod
    def found_in(cls, cells: Cells, where: str) -> Output:
        names = tuple(sorted({name for cell in cells for name in cell or ()}))
        if len(names) < cls.fewest:
            received = f"one answer, {names[0]!r}" if names else "no answer"
            raise UserError(f"{where}: there is {received}; it needs {cls.fewest} or more.")
        return cls(names)

    def loss(self, section: LossConfig) -> keras.losses.Loss:
        name = section.name if section.name in self.losses else self.losses[0]
        return Smoothed(self.loss_named(name, section.gamma), section.label_smoothing)

    @classmethod
    def loss_named(cls, name: str, gamma: float) -> keras.losses.Loss:
        """Returns a loss of logits: one of `losses`, focal with its strength `gamma`."""
        raise NotImplementedError

    def reading(self, model: keras.Model, name: str) -> Ending:
        several = isinstance(getattr(model, "output", None), dict)
        return ending_of(model, name if several else None, exclusive=self.exclusive)

    def answer(self, scores: np.ndarray, top_k: int, *, alone: bool) -> Ranked:
        most = top_k if alone or self.exclusive else None
        best = np.argsort(-scores, kind="stable")[:most]
        return tuple((self.class_names[c], float(scores[c])) for c in best)

    def cells(self, name: str, answer: Ranked | None, *, alone: bool) -> dict[str, str]:
        """Returns class, score, class_2, score_2, ...; beside other outputs, `cells_beside`."""
        if not alone:
            return self.cells_beside(name, answer or ())
        cells: dict[str, str] = {}
        for number, (best, score) in enumerate(answer or (), start=1):
            end = f"_{number}" if number > 1 else ""
            cells |= {f"class{end}": best, f"score{end}": f"{score:.6f}"}
        return cells or {"class": "", "score": ""}

    def cells_beside(self, name: str, answer: Ranked) -> dict[str, str]:
        """Returns an answer, which may be empty, as cells beside those of other outputs."""
        raise NotImplementedError

    def record(self, answer: Ranked) -> list[dict[str, Any]]:
        return [{"class": name, "score": round(score, 6)} for name, score in answer]

    def measure(self, values: np.ndarray, kept: np.ndarray, **options: Any) -> dict[str, Any]:
        return evaluate_predictions(values, kept, self.class_names, **options)

    def costs(self, values: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return log_losses(values, kept)

    def temperature(self, values: np.ndarray, kept: np.ndarray) -> float | None:
        return fit_temperature(values, kept)

    def served(self, scores: tf.Tensor) -> dict[str, tf.Tensor]:
        best = tf.math.top_k(scores, k=len(self.class_names))
        return {
            "scores": best.values,
            "class_indices": best.indices,
            "class_names": tf.gather(tf.constant(list(self.class_names)), best.indices),
        }

    def difference(self, expected: np.ndarray, said: Mapping[str, np.ndarray]) -> tuple[float, str]:
        indices = said["class_indices"]  # (n, classes)
        difference = float(np.abs(said["scores"] - np.take_along_axis(expected, indices, 1)).max())
        names = np.array(self.class_names)[indices]
        same = np.array_equal(said.get("class_names", names), names)
        return difference, "" if same else "gives other class names"

    def card(self, temperature: float) -> dict[str, Any]:
        return {"class_names": list(self.class_names), "temperature": temperature}
