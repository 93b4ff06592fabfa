"""Error bars: what a measure would have been on other samples of the same kind.

Efron and Tibshirani 1993: the test set is drawn again from itself, with replacement, many times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)  # a 95% interval
_Z = 1.959964  # standard deviations to the ends of one


def bootstrap(
    statistics: Callable[[np.ndarray], Sequence[float]],
    examples: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Returns statistics of the data drawn again, (resamples, statistics).

    Args:
        statistics: Given how often each example was drawn, float64 (examples,), returns numbers.
        examples: How many there are.
        resamples: How many times they are drawn.
        seed: Decides the draws.
    """
    generator = np.random.default_rng(seed)
    return np.array(
        [
            statistics(
                np.bincount(generator.integers(0, examples, examples), minlength=examples).astype(
                    np.float64
                )
            )
            for _ in range(resamples)
        ]
    )


def interval(values: np.ndarray) -> list[float] | None:
    """Returns the middle 95% of resampled values, [low, high]; None if none is defined."""
    defined = values[~np.isnan(values)]
    return np.percentile(defined, _PERCENTILES).tolist() if len(defined) else None


def share_interval(share: float, examples: int) -> list[float]:
    """Returns the 95% interval of a share of examples, [low, high].

    Wilson (1927), the score interval. It is wide enough even if all examples are right, or none;
    every resample of a bootstrap would then be the same.

    Example:
        >>> [round(end, 3) for end in share_interval(1.0, 12)]
        [0.757, 1.0]
    """
    middle = (share + _Z**2 / (2 * examples)) / (1 + _Z**2 / examples)
    spread = share * (1 - share) / examples + _Z**2 / (4 * examples**2)
    half = _Z * math.sqrt(spread) / (1 + _Z**2 / examples)
    # Rounding may leave an end of all, or of none, inside of the share itself.
    return [max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)]


def mean_interval(values: Sequence[float]) -> list[float] | None:
    """Returns the 95% interval of the mean of repeated measurements, [low, high]; None of one.

    Student's t, its quantile by the expansion of Fisher and Cornish (1960).
    """
    count = len(values)
    if count < 2:
        return None
    free, z = count - 1, _Z
    t = (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * free**4)
    )
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / count**0.5
    return [mean - t * error, mean + t * error]
