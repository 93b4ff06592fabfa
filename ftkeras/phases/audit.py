"""Proof of what was frozen: every variable's fingerprint, before and after a phase."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ftkeras.console import counted
from ftkeras.errors import TrainingError
from ftkeras.keras_internals import variables_inside
from ftkeras.phases.selectors import Weight


@dataclass(frozen=True)
class AuditResult:
    """What an audit of one phase found; names are variable paths.

    Attributes:
        frozen: How many variables had to stay, and did.
        trained: How many weights were to train, and moved.
        drifted: Variables that had to stay and changed. There should be none.
        unmoved: Weights that were to train and are what they were, to the bit. A weight without any
            gradient stays, for instance the bias of a unit that never fires.
    """

    frozen: int
    trained: int
    drifted: tuple[str, ...]
    unmoved: tuple[str, ...]

    def check(self, phase: str) -> None:
        """Raises TrainingError if anything drifted; `phase` is the name of the phase."""
        if self.drifted:
            names = ", ".join(self.drifted[:5])
            raise TrainingError(
                f"phase {phase!r}: {counted(len(self.drifted), 'frozen variable')} changed: "
                f"{names}. Something other than the optimizer writes to them."
            )

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> AuditResult:
        """Returns the verdict that `dataclasses.asdict` took apart."""
        names = {key: tuple(fields[key]) for key in ("drifted", "unmoved")}
        return cls(fields["frozen"], fields["trained"], **names)


class Audit:
    """Fingerprints a model when it is made, and compares when asked.

    Args:
        model: The model, its `trainable` flags set for the phase that begins.
        trained: The weights that train in that phase.

    Example:
        >>> layer = keras.layers.Dense(1)
        >>> model = keras.Sequential([keras.Input((1,)), layer])
        >>> audit = Audit(model, trained=[])
        >>> layer.bias.assign([1.0])  # doctest: +ELLIPSIS
        <...>
        >>> audit.verdict().drifted
        ('dense/bias',)
    """

    def __init__(self, model: keras.Model, trained: Iterable[Weight]):
        self._trained = {id(weight.variable) for weight in trained}
        self._fixed, self._moving = [], []
        for path, variable, layer, trains in variables_inside(model):
            if id(variable) in self._trained:
                self._moving.append((path, variable, fingerprint(variable)))
            elif trains or not layer.trainable:  # a layer that trains may move its statistics
                self._fixed.append((path, variable, fingerprint(variable)))

    def state(self) -> dict[str, list[str]]:
        """Returns the fingerprints, so that the proof spans a run that stops and resumes."""
        return {
            "fixed": [before.hex() for *_, before in self._fixed],
            "moving": [before.hex() for *_, before in self._moving],
        }

    def load_state(self, state: Mapping[str, Sequence[str]]) -> None:
        """Compares from now on with what `state` returned, of a model with the same flags."""
        for name, entries in (("fixed", self._fixed), ("moving", self._moving)):
            entries[:] = [
                (path, variable, bytes.fromhex(before))
                for (path, variable, _), before in zip(entries, state[name], strict=True)
            ]

    def verdict(self) -> AuditResult:
        """Compares every variable with what it was."""
        drifted = tuple(path for path, v, before in self._fixed if fingerprint(v) != before)
        unmoved = tuple(path for path, v, before in self._moving if fingerprint(v) == before)
        return AuditResult(
            frozen=len(self._fixed) - len(drifted),
            trained=len(self._moving) - len(unmoved),
            drifted=drifted,
            unmoved=unmoved,
        )


def fingerprint(variable: keras.Variable) -> bytes:
    """Returns 64 bits per replica, which differ when any bit of the variable does (FarmHash)."""
    value, (flat, method) = variable.value, _constants()
    copies = getattr(value, "values", (value,))  # one per replica of this process
    prints = (tf.raw_ops.Fingerprint(data=tf.reshape(c, flat), method=method) for c in copies)
    return b"".join(print_.numpy().tobytes() for print_ in prints)


@functools.cache
def _constants() -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a shape and a method as tensors: to convert them takes longer than all the rest."""
    return tf.constant([1, -1]), tf.constant("farmhash64")
