"""Whether a score of 0.8 is right eight times in ten, and the one number that fixes it.

Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ftkeras.measures.metrics import correct_answers, log_losses, scores_for

BINS = 15
_STEEPNESS = (0.01, 100.0)  # of 1 / temperature: what a fit may answer
_PRECISION = 1e-6


def outcomes(labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how sure each answer was and whether it was right.

    Of one label per image that is the best class and its score, (n,). Of several labels each class
    is a question of its own: its score, and whether the label was there, (n * classes,).

    Args:
        labels: Int (n,), or multi-hot (n, classes).
        logits: Float (n, classes).

    Returns:
        Correct, bool, and confidence, float in 0..1.
    """
    scores = scores_for(labels, logits)
    if labels.ndim == 2:
        return labels.ravel() > 0.5, scores.ravel()
    return correct_answers(labels, logits), scores.max(axis=1)


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Returns each confidence's bin: 0..1 divided into equal widths (lower, upper]."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def expected_calibration_error(
    correct: np.ndarray, confidence: np.ndarray, bins: int = BINS
) -> float:
    """Returns the mean gap between confidence and accuracy, over equal-width bins.

    Naeini et al. 2015; Guo et al. 2017.

    Args:
        correct: Bool (n,): whether the answer was right.
        confidence: Float (n,) in 0..1: the probability that the model gave its answer.
        bins: How many bins (lower, upper] divide 0..1.
    """
    gap = np.bincount(bin_of(confidence, bins), correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def calibration(labels: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """Returns the calibration error, the likelihood, and the bins of a reliability diagram.

    Args:
        labels: Int (n,), or multi-hot (n, classes).
        logits: Float (n, classes).

    Returns:
        `ece`, `nll`, and `bins`, from confidence 0 to 1: each with `n` answers, their mean
        `confidence` and their `accuracy`, both None if there is none.
    """
    correct, confidence = outcomes(labels, logits)
    where = bin_of(confidence)
    counts = np.bincount(where, minlength=BINS)
    sums = [np.bincount(where, values, minlength=BINS) for values in (confidence, correct)]
    return {
        "ece": expected_calibration_error(correct, confidence),
        "nll": float(log_losses(labels, logits).mean()),
        "bins": [
            {
                "n": int(n),
                "confidence": sure / n if n else None,
                "accuracy": right / n if n else None,
            }
            for n, sure, right in zip(counts, *(s.tolist() for s in sums), strict=True)
        ],
    }


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Returns the temperature T under which logits / T are likeliest, on images kept from training.

    The likelihood is convex in 1 / T: Newton's method, kept inside a bracket. If all answers are
    right, the likeliest scores are 1, which a few images do not justify. So T is raised until the
    mean score of the answers is at most what their accuracy would be with one image more that is
    half right. Smoothed targets, as Platt (1999) has them for two classes, do that too, but too
    strongly with several classes: the logits of wrong classes count without a limit.

    Args:
        labels: Int (n,), or multi-hot (n, classes), of which each class is a sigmoid of its own.
        logits: Float (n, classes).
    """
    z = np.asarray(logits, np.float64)
    if not np.ptp(z):
        return 1.0
    if labels.ndim == 2:
        right, own = (labels > 0.5) == (z > 0), (labels * z).sum(axis=1)
    else:
        right = correct_answers(labels, z)
        z = z - z.max(axis=1, keepdims=True)
        own = np.take_along_axis(z, labels[:, None], axis=1)[:, 0]

    def slope_and_curvature(steepness: float) -> tuple[float, float]:
        scores = scores_for(labels, steepness * z)
        mean = (scores * z).sum(axis=1)
        if labels.ndim == 2:
            spread = scores * (1 - scores) * z**2
        else:
            spread = scores * (z - mean[:, None]) ** 2
        return (mean - own).mean(), spread.sum(axis=1).mean()

    def is_too_sure(steepness: float) -> bool:
        scores = scores_for(labels, steepness * z)
        sure = np.maximum(scores, 1 - scores) if labels.ndim == 2 else scores.max(axis=1)
        return bool(sure.mean() > (len(z) * right.mean() + 0.5) / (len(z) + 1))

    (low, high), steepness = _STEEPNESS, 1.0
    while high / low > 1 + _PRECISION:
        slope, curvature = slope_and_curvature(steepness)
        low, high = (low, steepness) if slope > 0 else (steepness, high)
        if abs(slope) <= _PRECISION * steepness * curvature:
            break
        newton = steepness - slope / curvature if curvature > 0 else low
        steepness = newton if low < newton < high else float(np.sqrt(low * high))
    if is_too_sure(steepness):
        low, high = _STEEPNESS[0], steepness
        while high / low > 1 + _PRECISION:
            steepness = float(np.sqrt(low * high))
            low, high = (low, steepness) if is_too_sure(steepness) else (steepness, high)
    return float(1 / steepness)
