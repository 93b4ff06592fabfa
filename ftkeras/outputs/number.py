"""A number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.measures.bootstrap import bootstrap, interval
from ftkeras.measures.linear import ridge
from ftkeras.measures.metrics import check_finite
from ftkeras.outputs.base import Answers, Cells, Output, Reading

if TYPE_CHECKING:
    from ftkeras.config.schema import LossConfig

_LOSSES = {
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
    "huber": keras.losses.Huber,
}


@dataclass(frozen=True)
class Number(Output):
    """A number, learned in units of its spread in training, around its mean there.

    It is measured, served and written in the units of the data.

    Args:
        mean: What an output of 0 means.
        scale: How much more an output of 1 means.

    Example:
        >>> Number(mean=40.0, scale=10.0).in_units(np.array([0.0, -1.5]))
        array([40., 25.])
    """

    mean: float = 0.0
    scale: float = 1.0
    class_names = ()
    kind = "number"
    losses = tuple(_LOSSES)
    watched = "mae"
    is_named = True

    def in_units(self, said: Any) -> Any:
        """Returns what outputs mean, in the units of the data."""
        return np.asarray(said, np.float64) * self.scale + self.mean

    @classmethod
    def found_in(cls, cells: Cells, where: str) -> Output:
        return cls()

    def values_of(self, cells: Cells) -> np.ndarray:
        """Returns float32 (n, 1), 0 if unknown.

        Raises:
            ValueError: A cell holds no number; the argument is its index.
        """
        numbers = np.zeros((len(cells), 1), np.float32)
        for i, cell in enumerate(cells):
            if cell:
                numbers[i] = _number(cell[0], i)
        return numbers

    def fitted(self, train: np.ndarray, where: str) -> Output:
        mean = float(train.mean(dtype=np.float64))
        scale = float(train.std(dtype=np.float64))
        if scale <= 1e-12 * max(1.0, abs(mean)):
            raise UserError(
                f"{where}: it is {mean:g} for every training example. "
                "Add examples of other numbers, or leave the output out."
            )
        return Number(mean, scale)

    def in_own_units(self, answers: Answers) -> Answers:
        values = (answers.values - self.mean) / self.scale
        if answers.known is not None:
            values = np.where(answers.known[:, None], values, 0.0)
        return dataclasses.replace(answers, values=values.astype(np.float32))

    def loss(self, section: LossConfig) -> keras.losses.Loss:
        return _LOSSES[section.name if section.name in _LOSSES else "mse"]()

    def metrics(self) -> list[keras.metrics.Metric]:
        return [keras.metrics.MeanMetricWrapper(_absolute_error, name="mae", scale=self.scale)]

    linear = staticmethod(ridge)

    def costs(self, values: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return np.asarray(np.square(values - kept)[:, 0])

    def reading(self, model: keras.Model, name: str) -> Reading:
        return self

    def kept(self, said: Any) -> tf.Tensor:
        """Returns what predictions keep, (n, 1): numbers in units of the spread."""
        return tf.cast(said, tf.float32)

    def scores(self, said: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
        """Returns the numbers in the units of the data, float32 (n,)."""
        return tf.cast(said, tf.float32)[:, 0] * self.scale + self.mean

    def expected(self, said: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Returns the same in NumPy."""
        return np.asarray(self.in_units(said))[:, 0]

    def answer(self, scores: np.ndarray, top_k: int, *, alone: bool) -> float:
        return float(scores)

    def cells(self, name: str, answer: float | None, *, alone: bool) -> dict[str, str]:
        return {name: "" if answer is None else f"{answer:.6g}"}

    def record(self, answer: float) -> float:
        return float(f"{answer:.8g}")  # more than a float32 holds is noise

    def measure(self, values: np.ndarray, kept: np.ndarray, **options: Any) -> dict[str, Any]:
        """Returns the errors in the units of the data, with 95% bootstrap intervals.

        `r2` is the share of the variance that the answers explain; None if the truth does not vary.
        `baseline_mae` and `baseline_rmse` are the errors of always answering the mean of training.
        """
        if not len(values):
            raise UserError("evaluate: no example's answer is known. Choose another split.")
        check_finite(kept)
        truth = self.in_units(values)[:, 0]
        error = self.in_units(kept)[:, 0] - truth
        centred = truth - truth.mean()  # so that the variance is no difference of large numbers
        sums = np.column_stack([np.abs(error), error**2, centred, centred**2])

        def statistics(drawn: np.ndarray) -> list[float]:
            mae, squared, mean, square = drawn @ sums / drawn.sum()
            variance = square - mean**2
            return [mae, np.sqrt(squared), 1 - squared / variance if variance > 0 else np.nan]

        names = ("mae", "rmse", "r2")
        measured = dict(zip(names, statistics(np.ones(len(truth))), strict=True))
        draw = {name: options[name] for name in ("resamples", "seed") if name in options}
        resampled = bootstrap(statistics, len(truth), **draw).T
        off = truth - self.mean
        return {
            "examples": len(truth),
            **{name: None if np.isnan(value) else float(value) for name, value in measured.items()},
            "baseline_mae": float(np.abs(off).mean()),
            "baseline_rmse": float(np.sqrt((off**2).mean())),
            "intervals": {name: interval(c) for name, c in zip(names, resampled, strict=True)},
        }

    def listed(
        self, values: np.ndarray, kept: np.ndarray, temperature: float
    ) -> tuple[dict[str, list[str]], np.ndarray]:
        """Returns label, predicted and error (predicted - label), in the units of the data."""
        label, predicted = self.in_units(values)[:, 0], self.in_units(kept)[:, 0]
        columns = {"label": label, "predicted": predicted, "error": predicted - label}
        cells = {name: [f"{value:.6g}" for value in each] for name, each in columns.items()}
        return cells, np.abs(predicted - label)

    def made_up(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((2, 1)), np.zeros((2, 1))

    def served(self, scores: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"value": scores}

    def difference(self, expected: np.ndarray, said: Mapping[str, np.ndarray]) -> tuple[float, str]:
        """Returns the largest difference in units of the spread, or of larger numbers themselves.

        That is what a float32 can tell apart.
        """
        off = np.abs(said["value"] - expected)
        return float((off / np.maximum(self.scale, np.abs(expected))).max()), ""

    def card(self, temperature: float) -> dict[str, Any]:
        return {"mean": self.mean, "scale": self.scale}


def _number(text: str, index: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= 1e30:
        raise ValueError(index)
    return number


def _absolute_error(y: tf.Tensor, y_pred: tf.Tensor, scale: float) -> tf.Tensor:
    return scale * tf.abs(y - y_pred)[:, 0]  # (b,), in the units of the data
