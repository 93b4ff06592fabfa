"""Learning rates as pure functions of the step, and phases as a pure function of the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftkeras.phases.phase import Phase


def learning_rate(phase: Phase, step: int, steps: int) -> float:
    """Returns the rate for step `step` (from 0) of a phase of `steps` steps.

    The warm-up's first step is already above zero, and the last step of a decay is too: no step of
    a phase is spent on a rate of zero.

    Example:
        >>> phase = Phase("p", epochs=1, learning_rate=1.0, warmup=0.5, decay="linear")
        >>> [learning_rate(phase, step, 8) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup_steps = round(phase.warmup * steps)
    if step < warmup_steps:
        return phase.learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)  # from 0 to just below 1
    if phase.decay == "cosine":
        return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    if phase.decay == "linear":
        return phase.learning_rate * (1 - done)
    return phase.learning_rate


def locate(phases: Sequence[Phase], epoch: int) -> tuple[int, int]:
    """Returns (index of the phase, epoch within that phase) for an epoch counted from 0.

    Epochs past the last phase belong to it.

    Example:
        >>> phases = [Phase("a", epochs=2, learning_rate=1.0), Phase("b", epochs=3, learning_rate=1.0)]
        >>> locate(phases, 1), locate(phases, 2), locate(phases, 7)
        ((0, 1), (1, 0), (1, 5))
    """
    for index, phase in enumerate(phases):
        if epoch < phase.epochs or index == len(phases) - 1:
            return index, epoch
        epoch -= phase.epochs
    raise ValueError("there are no phases")
