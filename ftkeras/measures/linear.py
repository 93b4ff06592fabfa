"""Linear models on features that are at hand: what anyone gets in three lines of scikit-learn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""How much the examples count against the penalty, scikit-learn's C, for standardised features."""

_STEPS = 1_000  # of the solver at most
_SMALL = 200_000_000  # multiplications of one step of the solver, up to which it uses one thread
_RARE = 3.0  # how much lower than any other the bias of a class is that has no example


@dataclass(frozen=True)
class Linear:
    """Numbers from features: `features @ kernel + bias`.

    Args:
        kernel: float (channels, units).
        bias: float (units,).
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Returns (n, units) of features (n, channels)."""
        return np.asarray(features @ self.kernel + self.bias)


def logistic(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
    weights: np.ndarray | None = None,
    *,
    scaled: bool = True,
    tolerance: float = 1e-4,
) -> Linear:
    """Returns multinomial logistic regression with an L2 penalty, as logits of all classes.

    Args:
        features: float (n, channels).
        labels: int (n,).
        classes: How many classes there are; one without examples gets the lowest logit.
        strength: One of `STRENGTHS`, or like them.
        weights: Of the examples, float (n,).
        scaled: Whether to standardise the features; not if they are of one length, for example.
        tolerance: Of the gradient at which the solver stops.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    seen = np.unique(labels)
    kernel = np.zeros((features.shape[1], classes), np.float32)
    counts = np.bincount(labels, minlength=classes)
    bias = np.where(counts, 0.0, -_RARE).astype(np.float32)
    if len(seen) == 1:
        return Linear(kernel, bias)
    inputs, mean, scale = _standardised(features) if scaled else (features, 0.0, 1.0)
    model = LogisticRegression(C=strength, max_iter=_STEPS, tol=tolerance)
    with warnings.catch_warnings(), _threads(inputs.size * len(seen)):
        # What is left to gain by then is small, and the strength is chosen by held-out examples.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs, labels, sample_weight=weights)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(seen) == 2:  # scikit-learn has one logit then
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel[:, seen] = (coefficients / scale).T
    bias[seen] = intercepts - np.sum(mean * kernel[:, seen].T, axis=1)
    bias[counts == 0] = bias[seen].min() - _RARE
    return Linear(kernel, bias)


def logistic_each(
    features: np.ndarray, values: np.ndarray, strength: float, weights: np.ndarray | None = None
) -> Linear:
    """Returns a logistic regression for each label by itself, as logits.

    Args:
        features: float (n, channels).
        values: Multi-hot (n, labels). One that all examples have, or none, gets its log odds.
        strength: As `logistic` takes it.
        weights: Of the examples, float (n,).
    """
    pairs = [
        logistic(features, column.astype(int), 2, strength, weights) for column in values.T > 0.5
    ]
    kernel = np.column_stack([pair.kernel[:, 1] - pair.kernel[:, 0] for pair in pairs])
    bias = np.array([pair.bias[1] - pair.bias[0] for pair in pairs], np.float32)
    return Linear(kernel, bias)


def ridge(
    features: np.ndarray, values: np.ndarray, strength: float, weights: np.ndarray | None = None
) -> Linear:
    """Returns ridge regression.

    Args:
        features: float (n, channels).
        values: float (n, 1).
        strength: As `logistic` takes it.
        weights: Of the examples, float (n,).
    """
    from sklearn.linear_model import Ridge

    inputs, mean, scale = _standardised(features)
    model = Ridge(alpha=1 / strength).fit(inputs, values[:, 0], sample_weight=weights)
    kernel = (model.coef_ / scale).astype(np.float32)[:, np.newaxis]
    return Linear(kernel, np.array([model.intercept_ - mean @ kernel[:, 0]], np.float32))


def _threads(products: int) -> Any:
    """Keeps small matrix products to one thread.

    Several threads wait for one another at each of hundreds of short steps: beside other work, that
    took ten times as long.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1 if products < _SMALL else None)


def _standardised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features around 0, (n, channels), their means, and what they were divided by.

    That is the root of a channel's own variance and the mean one of all. A channel that hardly
    varies on a few examples may be large on the next one, and must not decide alone there.
    """
    mean, own = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.sqrt(own**2 + np.square(own).mean())
    scale = np.where(scale > 0, scale, 1.0)
    return (features - mean) / scale, mean, scale
