"""The learning-rate range test: which rates a model can be trained at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.errors import UserError
from ftkeras.training.resume import state

_SMOOTHING = 0.9  # of the running mean of the loss
_DIVERGED = 4.0  # times the lowest loss


@dataclass(frozen=True)
class RangeTest:
    """What the range test saw.

    Attributes:
        rates: Learning rate of each step.
        losses: Smoothed training loss of each step.
        suggestion: A tenth of the rate at which the loss was lowest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_learning_rate(
    model: keras.Model,
    batches: tf.data.Dataset,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
) -> RangeTest:
    """Trains a little at rates that rise from `low` to `high`, and puts everything back.

    The range test of Smith 2017 ("Cyclical learning rates for training neural networks"), with
    exponentially rising rates, stopped where the loss diverges. Afterwards weights, optimizer and
    random state are what they were, to the bit.

    Args:
        model: A compiled model whose optimizer is built.
        batches: Batches of (inputs, targets[, weights]); repeated where there are too few.
        low: The first rate.
        high: The last rate.
        steps: How many steps at most.

    Raises:
        UserError: `low` is not below `high`, or the loss diverged before there was anything to see.

    Example:
        ```python
        print(find_learning_rate(model, train_batches).suggestion)
        ```
    """
    if not 0 < low < high:
        raise UserError(f"lr-find: low must be above 0 and below high, got {low} and {high}.")
    rates: list[float] = []
    losses: list[float] = []
    mean, lowest = 0.0, math.inf
    progress = Progress("lr-find", steps)
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
            rates.append(rate)
            losses.append(smooth)
            progress.advance(1, f"rate {rate:.2g}, loss {smooth:.3f}")
    progress.close()
    if len(rates) < 10:
        raise UserError(
            f"lr-find: the loss diverged after {len(rates)} steps; start lower than {low}."
        )
    # A tenth of where the loss was lowest: there the next rise already diverges.
    return RangeTest(tuple(rates), tuple(losses), rates[losses.index(min(losses))] / 10)


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
