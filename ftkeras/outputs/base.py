"""What every kind of output knows of itself, and the answers that examples have for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from ftkeras.config.schema import LossConfig
    from ftkeras.measures.linear import Linear

Cells = Sequence[tuple[str, ...] | None]
"""What a source says of each example: names or a number as text; None if the answer is unknown."""


@dataclass(frozen=True)
class Answers:
    """What is right for each example, if that is known.

    Args:
        values: int32 (n,) class indices, or float32 (n, units): multi-hot, or numbers. Anything
            if the answer is unknown.
        units: How many numbers a target has.
        known: Whether the answer is known, bool (n,); None: all are.
    """

    values: np.ndarray
    units: int
    known: np.ndarray | None = None

    def of(self, indices: np.ndarray) -> Answers:
        """Returns the answers of some of the examples."""
        known = None if self.known is None else self.known[indices]
        return dataclasses.replace(self, values=self.values[indices], known=known)

    def joined(self, other: Answers) -> Answers:
        """Returns these answers, then those to other examples."""
        known = [
            np.ones(len(a.values), bool) if a.known is None else a.known for a in (self, other)
        ]
        all_known = self.known is None and other.known is None
        return dataclasses.replace(
            self,
            values=np.concatenate([self.values, other.values]),
            known=None if all_known else np.concatenate(known),
        )

    @property
    def places(self) -> np.ndarray:
        """The indices of the examples whose answer is known."""
        return np.arange(len(self.values)) if self.known is None else np.flatnonzero(self.known)

    @property
    def weights(self) -> np.ndarray | None:
        """Each example's weight in the loss, float32 (n,): 0 if the answer is unknown.

        Examples with a known answer weigh more in return, so that the mean over all examples is the
        mean over these. That mean is right on any number of replicas, and in every epoch. None if
        all are known and weigh the same.
        """
        if self.known is None:
            return None
        share = self.known.sum() / max(len(self.known), 1)
        return (self.known / max(share, 1e-12)).astype(np.float32)

    def make_target(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns int64 index (...) -> float32 (..., units): one-hot, multi-hot, or a number.

        Class indices stay indices in memory: one-hot vectors of a thousand classes would take 4,000
        bytes per example. Multi-hot vectors are kept as bits.
        """
        if self.values.ndim == 1:
            numbers = tf.constant(self.values, tf.int32)  # (n,); an unknown -1 has no 1
            return lambda index: tf.one_hot(tf.gather(numbers, index), self.units)
        bits = self.values.astype(bool)
        kept = tf.constant(bits if np.array_equal(bits, self.values) else self.values)
        return lambda index: tf.cast(tf.gather(kept, index), tf.float32)


class Reading(Protocol):
    """How to read what a model returned: `said`, (n, units)."""

    def kept(self, said: Any) -> tf.Tensor:
        """Returns what predictions keep: logits (n, classes), or numbers (n, 1)."""

    def scores(self, said: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
        """Returns scores (n, classes), or numbers in the units of the data (n,)."""

    def expected(self, said: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Returns the same in NumPy, computed apart from all that is exported."""


class Output(Protocol):
    """What one output of a model means. Each kind is a frozen dataclass."""

    kind: ClassVar[str]
    """What configs and files call it."""
    losses: ClassVar[Sequence[str]]
    """The values of `loss.name` that it takes; the first is that of auto."""
    watched: ClassVar[str]
    """The metric that tells the best epoch."""
    is_named: ClassVar[bool] = False
    """Whether files and signatures name the output even if there is no other."""
    class_names: tuple[str, ...]
    """The classes or labels, in the order of the logits; none of a number."""

    @property
    def units(self) -> int:
        """How many numbers a target has."""
        return len(self.class_names) or 1

    # ------------------------------------------------------------------------- answers

    @classmethod
    def cell(cls, text: str) -> tuple[str, ...]:
        """Returns the answers in a cell of a table."""
        return (text,)

    @classmethod
    def found_in(cls, cells: Cells, where: str) -> Output:
        """Returns the output that what a source says is an answer to.

        Args:
            cells: What the source says of each example.
            where: What errors begin with.

        Raises:
            UserError: There is nothing to learn.
        """

    def values_of(self, cells: Cells) -> np.ndarray:
        """Returns the values of `Answers`; see there."""

    def fitted(self, train: np.ndarray, where: str) -> Output:
        """Returns the output in units of the known training values, (k,) or (k, units).

        Raises:
            UserError: They teach nothing.
        """
        return self

    def in_own_units(self, answers: Answers) -> Answers:
        """Returns the answers in the units that the model learns."""
        return answers

    # ------------------------------------------------------------------------ training

    def loss(self, section: LossConfig) -> keras.losses.Loss:
        """Returns the loss that a config names, a mean over examples; see `losses`."""

    def metrics(self) -> list[keras.metrics.Metric]:
        """Returns what training logs; the first is logged beside other outputs, too."""

    def bias(self, values: np.ndarray) -> np.ndarray | None:
        """Returns the bias to start from, float32 (units,), for the known training values."""
        return None

    # --------------------------------------------------------------------------- linear

    def linear(
        self,
        features: np.ndarray,
        values: np.ndarray,
        strength: float,
        weights: np.ndarray | None = None,
    ) -> Linear:
        """Returns what a regularised linear model makes of features.

        Args:
            features: float (n, channels), of examples whose answer is known.
            values: Of their `Answers`.
            strength: One of `ftkeras.measures.linear.STRENGTHS`.
            weights: Of the examples, float (n,).
        """

    def costs(self, values: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Returns the loss of each answer, float (n,), by which such a model is chosen.

        Args:
            values: Of the `Answers` of examples whose answer is known.
            kept: What predictions keep of the model's answers.
        """

    # ------------------------------------------------------------------------- answering

    def reading(self, model: keras.Model, name: str) -> Reading:
        """Returns how to read what a model returns.

        Args:
            model: If it returns a dict, `name` says which output is meant.
            name: The output's name.

        Raises:
            UserError: It gives neither logits nor scores, and has to.
        """

    def answer(self, scores: np.ndarray, top_k: int, *, alone: bool) -> Any:
        """Returns what is said of one example.

        Args:
            scores: A row of `Reading.scores`: (classes,), or a number ().
            top_k: How many classes to give at most.
            alone: Whether there is no other output.
        """

    def cells(self, name: str, answer: Any, *, alone: bool) -> dict[str, str]:
        """Returns an answer as cells of a table by column; None gives empty ones."""

    def record(self, answer: Any) -> Any:
        """Returns an answer ready for JSON."""

    # ------------------------------------------------------------------------- measuring

    def measure(self, values: np.ndarray, kept: np.ndarray, **options: Any) -> dict[str, Any]:
        """Returns what is measured of the examples whose answer is known, ready for JSON.

        Args:
            values: Of their `Answers`.
            kept: What predictions keep of the model's answers.
            **options: `temperature`, what logits are divided by when the model is used; `columns`,
                more that is known of the examples, str (n,) each; `resamples` and `seed` of the
                bootstrap.

        Raises:
            UserError: There is nothing to measure.
            TrainingError: The answers are not finite: training diverged.
        """

    def temperature(self, values: np.ndarray, kept: np.ndarray) -> float | None:
        """Returns what to divide logits by, fitted on held-out examples; None without logits."""
        return None

    def listed(
        self, values: np.ndarray, kept: np.ndarray, temperature: float
    ) -> tuple[dict[str, list[str]], np.ndarray]:
        """Returns the columns of a table of answers: label, predicted, and how sure or wrong.

        Args:
            values: Of the `Answers` of examples whose answer is known.
            kept: What predictions keep of the model's answers.
            temperature: What logits are divided by.

        Returns:
            Cells by column, (n,) each, and how bad each answer is, float (n,); of classes 1 or
            more is wrong.
        """

    def made_up(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns values and kept answers that are measured by the same names as real ones."""

    # --------------------------------------------------------------------------- serving

    def served(self, scores: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what clients get, from `Reading.scores`."""

    def difference(self, expected: np.ndarray, said: Mapping[str, np.ndarray]) -> tuple[float, str]:
        """Returns how far served answers are from those expected, and any other fault."""

    def card(self, temperature: float) -> dict[str, Any]:
        """Returns what a client may want to know, ready for JSON."""
