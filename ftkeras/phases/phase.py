"""Phases: what a phase leaves out is taken from the one before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ftkeras.config.phases import (
    LENGTHS,
    BatchNorm,
    Decay,
    Phase,
    Until,
    improves,
    larger_is_better,
)
from ftkeras.errors import UserError

__all__ = [
    "BatchNorm",
    "Decay",
    "Phase",
    "Until",
    "improves",
    "larger_is_better",
    "resolve_phases",
    "scale_rates",
]


def scale_rates(phase: Phase, factor: float) -> Phase:
    """Returns the phase with all its learning rates multiplied.

    Example:
        >>> scale_rates(Phase("head", learning_rate=0.25, rates={"norm": 0.5}), 2.0).rates
        {'norm': 1.0}
    """
    rate = None if phase.learning_rate is None else phase.learning_rate * factor
    rates = {name: value * factor for name, value in phase.rates.items()} if phase.rates else None
    return dataclasses.replace(phase, learning_rate=rate, rates=rates or phase.rates)


def resolve_phases(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Returns the phases with what they leave out taken from the one before, or the defaults.

    Raises:
        UserError: There is no phase, two have one name, or the first has no length or rate.

    Example:
        >>> first = Phase("head", epochs=2, learning_rate=1e-3, decay="linear")
        >>> resolve_phases([first, Phase("top", train=["all"])])[1].decay
        'linear'
    """
    if not phases:
        raise UserError("phases: there must be at least one.")
    names = [phase.name for phase in phases]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"phases: the name {twice[0]!r} is given twice; names must differ.")
    fields = dataclasses.fields(Phase)
    firsts: dict[str, Any] = {field.name: field.metadata.get("first") for field in fields}
    known = {name: first for name, first in firsts.items() if first is not None}
    resolved = []
    for phase in phases:
        said = {
            field.name: getattr(phase, field.name)
            for field in dataclasses.fields(phase)
            if getattr(phase, field.name) is not None
        }
        if any(name in said for name in LENGTHS):
            known = {name: value for name, value in known.items() if name not in LENGTHS}
        known |= said
        if "learning_rate" not in known:
            raise UserError(f"phase {phase.name!r}: learning_rate is missing.")
        if not any(name in known for name in LENGTHS):
            raise UserError(f"phase {phase.name!r}: one of epochs, steps and until is missing.")
        nothing = dict.fromkeys(LENGTHS)  # that were taken from the one before
        resolved.append(dataclasses.replace(phase, **{**nothing, **known}))
    return tuple(resolved)
