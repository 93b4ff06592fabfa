"""How good predictions are: plain NumPy, in definitions that scikit-learn shares.

Single-label functions take `labels` as class indices, int (n,); multi-label ones take them
multi-hot, (n, classes). A measure that is a mean is given example by example, since that is what
error bars and paired comparisons start from. What is undefined (the precision of a class that was
never predicted, the AUC of a class without examples) is NaN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ftkeras.errors import TrainingError


class ClassMetrics(NamedTuple):
    """Precision, recall and F1, each (..., classes)."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns scores that add up to 1 for each example, float64 (n, classes)."""
    logits = np.asarray(logits, np.float64)
    return np.exp(logits - _log_sum_exp(logits)[:, None])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns a score for each label by itself, float64 (n, classes)."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))  # without overflow


def scores_for(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns softmax scores if each example has one label, otherwise sigmoid scores, (n, classes).

    Args:
        labels: Int (n,), or multi-hot (n, classes).
        logits: Float (n, classes).
    """
    return softmax(logits) if labels.ndim == 1 else sigmoid(logits)


def correct_answers(
    labels: np.ndarray, logits: np.ndarray, cuts: np.ndarray | float = 0.0
) -> np.ndarray:
    """Returns whether each example's answer is right, bool (n,); of several labels, all of them.

    Args:
        labels: Int (n,), or multi-hot (n, classes).
        logits: Float (n, classes).
        cuts: Of several labels the logit from which on each counts, (classes,) or one for all.
    """
    if labels.ndim == 2:
        return ((labels > 0.5) == (logits >= cuts)).all(axis=1)
    return logits.argmax(axis=1) == labels


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Returns (classes, classes): how many examples of each true class (row) got each answer."""
    cells = labels.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def in_top_k(labels: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Returns whether the true class is among the k best, bool (n,); of equals the lower wins.

    Args:
        labels: Int (n,).
        scores: Float (n, classes): probabilities or logits.
        k: How many answers count; 1 is plain accuracy.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)  # (n, 1)
    first_of_equals = np.arange(scores.shape[1]) < labels[:, None]  # (n, classes)
    ahead = (scores > own) | ((scores == own) & first_of_equals)
    return ahead.sum(axis=1) < k


def class_metrics(
    true_positives: np.ndarray, actual: np.ndarray, predicted: np.ndarray
) -> ClassMetrics:
    """Returns precision, recall and F1 from how often each class was hit, there, and answered.

    Args:
        true_positives: (..., classes) examples of the class that were predicted to be so.
        actual: (..., classes) examples of the class.
        predicted: (..., classes) examples predicted to be of the class.
    """
    return ClassMetrics(
        precision=ratio(true_positives, predicted),
        recall=ratio(true_positives, actual),
        f1=ratio(2 * true_positives, actual + predicted),
    )


def auc_shares(positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Returns each example's share in the area under the ROC curve; their mean is the area.

    The area is how often a positive outranks a negative, ties counted half (Mann-Whitney). An
    example's share is its influence on it, so that to first order a bootstrap of the AUC is one of
    a mean, at the cost of one sort (the structural components of DeLong et al. 1988).

    Args:
        positive: Bool (n,).
        score: Float (n,), any increasing function of the belief in "positive".

    Returns:
        Float (n,); NaN if all examples are of one kind.
    """
    shares = np.full(len(score), np.nan)
    if positive.all() or not positive.any():
        return shares
    for own, sign in ((positive, 1), (~positive, -1)):
        others = np.sort(sign * score[~own])
        below = sum(np.searchsorted(others, sign * score[own], side) for side in ("left", "right"))
        outranks = below / (2 * len(others))  # how many of the others, 0..1
        area = outranks.mean()
        shares[own] = area + (outranks - area) * len(score) / own.sum()
    return shares


def check_finite(outputs: np.ndarray) -> None:
    """Raises TrainingError if a model's outputs cannot be measured."""
    if not np.isfinite(outputs).all():
        raise TrainingError(
            "evaluate: the model's outputs are not finite, so training diverged. "
            "Lower the learning rate, or set optimizer.clip_norm."
        )


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Returns the precision at each positive found, from the best score down, averaged."""
    order = np.argsort(-score, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    true_positives = np.cumsum(positive[order])[last_of_equals]
    precision = true_positives / (last_of_equals + 1)
    return float(ratio(np.sum(np.diff(true_positives, prepend=0) * precision), true_positives[-1]))


def log_losses(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns -log p(label) of each example, in nats, float (n,): the mean is the NLL.

    Args:
        labels: Int (n,); or multi-hot (n, classes), whose likelihood is averaged over the classes.
        logits: Float (n, classes).
    """
    logits = np.asarray(logits, np.float64)
    if labels.ndim == 2:
        return (np.logaddexp(0.0, logits) - labels * logits).mean(axis=1)
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return _log_sum_exp(logits) - own


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    highest = logits.max(axis=1)
    return highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))  # (n,)


def ratio(part: Any, whole: Any) -> np.ndarray:
    """Returns part / whole, NaN if the whole is nothing."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
