"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math

from ftkeras.phases.phase import Phase

# The 1cycle policy (Smith and Topin 2018) in the proportions that fastai made usual.
_RISE_SHARE, _START_DIVISOR, _END_DIVISOR = 0.3, 25.0, 1e4


def learning_rate(phase: Phase, step: int, steps: int) -> float:
    """Returns the rate for step `step` (from 0) of a phase of `steps` steps.

    After a linear warm-up to the peak: `constant` stays. `linear` and `cosine` (Loshchilov and
    Hutter 2017) fall towards zero. `step` falls to a tenth at half and to a hundredth at three
    quarters. `one_cycle` replaces the warm-up by its own rise. No step has a rate of zero.

    Example:
        >>> from ftkeras.phases.phase import Phase, resolve_phases
        >>> phase, = resolve_phases([Phase("p", 1, 1.0, warmup=0.5, decay="linear")])
        >>> [learning_rate(phase, step, 8) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    peak = phase.learning_rate
    if phase.decay == "one_cycle":
        return peak * _one_cycle(step / steps)
    warmup_steps = round(phase.warmup * steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)  # from 0 to just below 1
    if phase.decay == "cosine":
        return peak * _cosine(1.0, 0.0, done)
    if phase.decay == "linear":
        return peak * (1 - done)
    if phase.decay == "step":
        return peak * (1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
    return peak


def turning_points(phase: Phase, steps: int) -> list[int]:
    """Returns the first and last step, and those between at which the rate may be highest.

    However long a phase is, they are few.
    """
    rise = _RISE_SHARE if phase.decay == "one_cycle" else phase.warmup
    top = round(rise * steps)
    inside = {step for step in (top - 1, top, top + 1) if 0 < step < steps - 1}
    return [0, *sorted(inside), steps - 1]


def _one_cycle(done: float) -> float:
    if done < _RISE_SHARE:
        return _cosine(1 / _START_DIVISOR, 1.0, done / _RISE_SHARE)
    return _cosine(1.0, 1 / _END_DIVISOR, (done - _RISE_SHARE) / (1 - _RISE_SHARE))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
