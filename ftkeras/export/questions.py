"""The questions to an export that prove that it answers as its model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.inputs.base import Input

_COUNT = 3  # of the arrays that stand for examples


@dataclass(frozen=True)
class Questions:
    """Raw examples to send to an export, and what to expect of those that it must refuse.

    Args:
        golden: Raw examples that must be answered as the model answers them, by name.
        warm_up: The names of those for a server's warm-up requests.
        refused: Raw examples that must get an error of their own and no answer, by name.
        is_told: Whether an error (its text) is about the refused example of a name.
        why_not: From a raw example, a scalar, to why it cannot be read; a graph's operations.
        damaged: The error if that gives none.
        limits: What no golden example shows, in words.
    """

    golden: Mapping[str, Any]
    warm_up: Sequence[str]
    refused: Mapping[str, Any] = field(default_factory=dict)
    is_told: Callable[[str, str], bool] = lambda name, error: bool(error)
    why_not: Callable[[tf.Tensor], tf.Tensor] = lambda raw: tf.constant("")
    damaged: str = "it cannot be read"
    limits: str = ""


def questions_of(kind: Input) -> Questions:
    """Returns the questions about a kind: its own, or random arrays if its examples are arrays.

    Raises:
        UserError: The examples are files or texts, and the kind has no ability "golden".
    """
    own = kind.ability("golden")
    if own is not None:
        return Questions(
            golden=own.golden(),
            warm_up=own.WARM_UP,
            refused=own.refused(),
            is_told=own.is_told,
            why_not=own.why_not,
            damaged=own.DAMAGED,
            limits=own.LIMITS,
        )
    raw = kind.raw
    if raw.dtype == tf.string or not raw.shape.is_fully_defined():
        raise UserError(
            f"export: ftkeras has no {kind.nouns} to prove an export with. Give the kind an "
            'ability "golden"; docs/inputs.md lists its parts.'
        )
    random = np.random.default_rng(0)
    drawn = random.normal(size=(_COUNT, *raw.shape)).astype(raw.dtype.as_numpy_dtype)
    golden = {f"random {i + 1}": array for i, array in enumerate(drawn)}
    return Questions(golden, warm_up=list(golden))
