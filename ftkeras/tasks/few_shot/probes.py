"""Linear heads fitted on the features of a few examples, and the choice among several.

All are fitted on the CPU, in seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ftkeras.measures.linear import Linear, logistic
from ftkeras.measures.metrics import log_losses

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""The candidates, for features of length near 1; the middle one if nothing is held out."""

_COSINE_STEPS, _COSINE_RATE, _FIRST_SCALE = 100, 0.02, 10.0


Fit = Callable[[np.ndarray, np.ndarray, int], Linear]
"""From features (n, channels), labels int (n,) and the number of classes to a head."""
Fold = tuple[np.ndarray, np.ndarray]
"""Indices to fit on, and indices that are left out."""


def nearest_mean(features: np.ndarray, labels: np.ndarray, classes: int) -> Linear:
    """Returns a head that chooses the class whose mean is nearest (Mensink et al. 2013).

    The logits are minus the squared distances, up to a number that all classes share.
    """
    means = _means(features, labels, classes)
    return Linear(2.0 * means.T, -np.square(means).sum(axis=1))


def cosine_head(features: np.ndarray, labels: np.ndarray, classes: int) -> Linear:
    """Returns a head whose logits are scaled cosines between features and a prototype per class.

    Prototypes begin as the class means and are trained together with the scale (Gidaris and
    Komodakis 2018; Chen et al. 2019).

    Args:
        features: float (n, channels), all of one length, so that the head is linear.
        labels: int (n,).
        classes: How many classes there are.
    """
    length = float(np.linalg.norm(features[0]))
    basis, coordinates = _span(features / length)  # (rank, channels), (n, rank)
    targets = np.eye(classes)[labels]
    prototypes = _means(coordinates, labels, classes)
    prototypes, log_scale = _unit(prototypes), np.log(_FIRST_SCALE)
    moments = np.zeros((2, prototypes.size + 1))
    for step in range(1, _COSINE_STEPS + 1):  # Adam
        gradient = _cosine_gradient(prototypes, log_scale, coordinates, targets)
        moments[0] = 0.9 * moments[0] + 0.1 * gradient
        moments[1] = 0.999 * moments[1] + 0.001 * np.square(gradient)
        first, second = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
        change = _COSINE_RATE * first / (np.sqrt(second) + 1e-8)
        prototypes = prototypes - change[:-1].reshape(prototypes.shape)
        log_scale = log_scale - change[-1]
    kernel = np.exp(log_scale) / length * (_unit(prototypes) @ basis).T
    return Linear(kernel, np.zeros(classes))


def penalised(
    features: np.ndarray, labels: np.ndarray, classes: int, penalty: float = 0.1
) -> Linear:
    """Returns logistic regression that minimises cross-entropies + `penalty / 2` * kernel ** 2."""
    return logistic(features, labels, classes, 1 / penalty, scaled=False, tolerance=1e-6)


def draw(labels: np.ndarray, shots: int, seed: int, turn: int = 0) -> np.ndarray:
    """Returns the indices of `shots` examples of each class, in rising order.

    Args:
        labels: int (n,).
        shots: How many per class.
        seed: Decides the draws.
        turn: The number of the draw of that seed.
    """
    random = np.random.default_rng([seed, turn])
    rows = [random.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)]
    return np.sort(np.concatenate(rows))


def stratified_folds(
    labels: np.ndarray, folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (indices to fit on, indices left out); each example is left out once.

    Each class is spread over the folds as evenly as possible.
    """
    random = np.random.default_rng(seed)
    fold = np.empty(len(labels), int)
    for label in np.unique(labels):
        mine = random.permutation(np.flatnonzero(labels == label))
        fold[mine] = (np.arange(len(mine)) + random.integers(folds)) % folds
    for number in range(folds):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def fit_head(
    method: str, features: np.ndarray, labels: np.ndarray, classes: int, folds: Sequence[Fold]
) -> tuple[Linear, np.ndarray | None]:
    """Fits a head on all examples, and one more on each fold.

    Args:
        method: logistic, cosine or nearest_mean. The penalty of logistic is the one with the
            least cross-validated log loss.
        features: float (n, channels), all of one length.
        labels: int (n,).
        classes: How many classes there are.
        folds: As `stratified_folds` yields them; none if nothing can be held out.

    Returns:
        The head, and the logits (n, classes) of each example from a head that was fitted without
        that example.
    """
    fits = METHODS[method]
    if not folds:
        return fits[len(fits) // 2](features, labels, classes), None
    held_out = [_held_out_logits(fit, features, labels, classes, folds) for fit in fits]
    best = int(np.argmin([log_losses(labels, logits).mean() for logits in held_out]))
    return fits[best](features, labels, classes), held_out[best]


def _held_out_logits(
    fit: Fit, features: np.ndarray, labels: np.ndarray, classes: int, folds: Sequence[Fold]
) -> np.ndarray:
    logits = np.empty((len(labels), classes))
    for kept, left_out in folds:
        logits[left_out] = fit(features[kept], labels[kept], classes)(features[left_out])
    return logits


METHODS: dict[str, Sequence[Fit]] = {
    "logistic": [functools.partial(penalised, penalty=penalty) for penalty in PENALTIES],
    "cosine": [cosine_head],
    "nearest_mean": [nearest_mean],
}
"""The heads by name, each with the settings to choose from."""


def _means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The mean of each class (classes, channels)."""
    hot = np.eye(classes)[labels]  # (n, classes)
    return np.asarray(hot.T @ features / hot.sum(axis=0)[:, None])


def _span(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal rows (rank, channels) that span the features, and coordinates (n, rank)."""
    left, sizes, right = np.linalg.svd(features, full_matrices=False)
    kept = sizes > 1e-9 * max(sizes[0], 1e-300)
    return right[kept], left[:, kept] * sizes[kept]


def _cosine_gradient(
    prototypes: np.ndarray, log_scale: float, inputs: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """The gradient of the mean cross-entropy for the prototypes, flattened, and the scale.

    Args:
        prototypes: float (classes, rank).
        log_scale: The logarithm of what cosines are multiplied by.
        inputs: float (n, rank), of length 1.
        targets: One-hot (n, classes).

    Returns:
        float (classes * rank + 1,).
    """
    units, scale = _unit(prototypes), np.exp(log_scale)
    cosines = inputs @ units.T  # (n, classes)
    error = (_softmax(scale * cosines) - targets) / len(targets)
    by_unit = scale * error.T @ inputs  # (classes, rank)
    across = by_unit - np.sum(by_unit * units, axis=1, keepdims=True) * units
    by_prototype = across / np.linalg.norm(prototypes, axis=1, keepdims=True)
    return np.append(by_prototype, scale * np.sum(error * cosines))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
