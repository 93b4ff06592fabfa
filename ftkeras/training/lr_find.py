"""The learning-rate range test: the rates at which a model can be trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import Progress, counted
from ftkeras.errors import UserError
from ftkeras.training.resume import state

_SMOOTHING = 0.9  # of the running mean of the loss, which detects divergence
_DIVERGED = 4.0  # times the lowest loss
_WIDTH = 0.2  # of the kernel that smooths the curve, in decades, so that steps do not matter
_LEAST_PER_DECADE = 8  # steps
_CLEAR = 4.0  # standard errors: more than the least of many windows of noise
_AS_LOW = 2.0  # standard errors above the lowest
_WIDEST = 10.0  # last to first rate with a loss as low as the lowest


@dataclass(frozen=True)
class RangeTest:
    """The result of the range test.

    Attributes:
        rates: Learning rate of each step.
        losses: Training loss of each step, smoothed over the logarithm of the rate.
        suggestion: A tenth of the rate with the lowest loss. If several are equal within the noise
            of batches, their middle in logarithm counts. None if the curve supports none.
        reason: Why there is no suggestion, or an empty string.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float | None
    reason: str = ""


def find_learning_rate(
    model: keras.Model,
    batches: tf.data.Dataset,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
) -> RangeTest:
    """Trains a little at rates that rise from `low` to `high`, and restores everything.

    The range test of Smith 2017 ("Cyclical learning rates for training neural networks"), with
    exponentially rising rates; it stops if the loss diverges. Afterwards weights, optimizer and
    random state are restored to the bit.

    Args:
        model: A compiled model whose optimizer is built.
        batches: Batches of (inputs, targets[, weights]); repeated if there are too few.
        low: The first rate.
        high: The last rate.
        steps: How many steps at most.

    Raises:
        UserError: `low` is not below `high`, or the loss diverged at once.

    Example:
        ```python
        found = find_learning_rate(model, train_batches)
        print(found.suggestion or found.reason)
        ```
    """
    if not 0 < low < high:
        raise UserError(f"lr-find: low must be above 0 and below high, got {low} and {high}.")
    rates, losses = list[float](), list[float]()
    mean, lowest, progress = 0.0, math.inf, Progress("lr-find", steps, "step")
    with _everything_put_back(model):
        for step, batch in enumerate(batches.repeat().take(steps)):
            rate = low * (high / low) ** (step / max(steps - 1, 1))
            model.optimizer.learning_rate = rate
            loss = float(model.train_on_batch(*batch, return_dict=True)["loss"])
            model.reset_metrics()  # the loss that train_on_batch returns is a mean since the reset
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            smooth = mean / (1 - _SMOOTHING ** (step + 1))
            if not math.isfinite(smooth) or smooth > _DIVERGED * lowest:
                break
            lowest = min(lowest, smooth)
            rates, losses = [*rates, rate], [*losses, loss]
            progress.advance(1, f"rate {rate:.2g}, loss {smooth:.3f}")
    progress.close()
    if len(rates) < 10:
        raise UserError(
            f"lr-find: the loss diverged after {counted(len(rates), 'step')}; "
            f"start lower than {low}."
        )
    curve, error = _smoothed(np.log10(rates), np.array(losses))
    per_decade = (steps - 1) / math.log10(high / low)
    suggestion, reason = _suggest(np.array(rates), curve, error, diverged=len(rates) < steps)
    if per_decade < _LEAST_PER_DECADE:
        enough = math.ceil(_LEAST_PER_DECADE * math.log10(high / low)) + 1
        suggestion, reason = None, f"too few steps for these rates: {enough} or more are needed"
    return RangeTest(tuple(rates), tuple(curve.tolist()), suggestion, reason)


def _smoothed(places: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the curve, and the standard error of each point of it, (steps,) each."""
    kernel = np.exp(-(((places[:, None] - places) / _WIDTH) ** 2) / 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    curve = kernel @ losses
    noise = kernel @ (losses - curve) ** 2  # of one batch
    return curve, np.sqrt(noise * (kernel**2).sum(axis=1))


def _suggest(
    rates: np.ndarray, curve: np.ndarray, error: np.ndarray, *, diverged: bool
) -> tuple[float | None, str]:
    """Returns a rate and an empty string, or None and why the curve supports none."""
    best = int(curve.argmin())
    start = int(np.searchsorted(rates, rates[0] * 10))  # in the first decade little is learnt
    before = curve[:start].mean()
    if best < start or before - curve[best] < _CLEAR * max(error[best], error[:start].mean()):
        return None, "the loss does not fall by more than it differs between batches"
    top = best + int(curve[best:].argmax())
    if not diverged and curve[top] - curve[best] < _CLEAR * max(error[best], error[top]):
        return None, f"the loss is still falling at the last rate, {rates[-1]:.1g}"
    as_low = rates[curve <= curve[best] + _AS_LOW * error[best]]
    if as_low[-1] > _WIDEST * as_low[0]:
        return None, f"the loss is as low at any rate from {as_low[0]:.1g} to {as_low[-1]:.1g}"
    # At the lowest loss, a further rise diverges; the noise of batches moves it between these ends.
    return math.sqrt(as_low[0] * as_low[-1]) / 10, ""


@contextmanager
def _everything_put_back(model: keras.Model) -> Iterator[None]:
    tree = state.take(model, model, parts={})
    drawn = tf.random.get_global_generator().state.numpy()
    try:
        yield
    finally:
        state.put_back(model, {}, tree)
        model.reset_metrics()
        tf.random.get_global_generator().state.assign(drawn)
