"""Examples worth a look: confident mistakes, and labels that are likely wrong.

Both work on what a model said of images that it was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Suspect:
    """One example that the model and its label disagree about.

    Args:
        index: Which example.
        label: The class that its label says; of several labels, -1 if the label is absent.
        suggested: The class that the model says; of several labels, -1 if it says "not so".
        label_score: How likely the model finds the given label, 0..1.
        suggested_score: How likely it finds the other answer, 0..1.
    """

    index: int
    label: int
    suggested: int
    label_score: float
    suggested_score: float


def confident_mistakes(labels: np.ndarray, scores: np.ndarray, most: int) -> list[Suspect]:
    """Returns the wrong answers that the model is surest of, the surest first.

    Args:
        labels: Int (n,), or multi-hot (n, classes): then each class is a question of its own, whose
            answer is wrong if the score is on the other side of 0.5 than the label.
        scores: Probabilities (n, classes).
        most: How many to return.
    """
    if labels.ndim == 2:
        doubt = np.abs(labels - scores)  # (n, classes)
        return _of_classes(labels, scores, doubt, (labels > 0.5) != (scores >= 0.5))[:most]
    said = scores.argmax(axis=1)
    wrong = np.flatnonzero(said != labels)
    surest = wrong[np.argsort(-scores[wrong, said[wrong]], kind="stable")[:most]]
    return [_suspect(labels, scores, int(i), int(said[i])) for i in surest]


def likely_label_errors(labels: np.ndarray, scores: np.ndarray) -> list[Suspect]:
    """Returns the examples whose labels are likely wrong, the likeliest first.

    Confident learning (Northcutt et al. 2021) in its simple form: a class's threshold is the mean
    score that the class gets from the examples labelled so. An example is suspect if another
    class reaches its threshold, while the given one stays below its own. Suspects are ordered by
    how far the other class is ahead.

    Args:
        labels: Int (n,), or multi-hot (n, classes): then each class is a question of its own, and
            "it is so" and "it is not so" are the two classes.
        scores: Probabilities (n, classes).
    """
    if labels.ndim == 2:
        there = labels > 0.5
        own = np.where(there, scores, 1 - scores)  # (n, classes): of the given answer
        typical = np.where(there, _mean(own, there), _mean(own, ~there))
        other = np.where(there, _mean(own, ~there), _mean(own, there))
        suspect = (own < typical) & (1 - own >= other) & (own < 0.5)
        return _of_classes(labels, scores, 1 - own, suspect)
    n, classes = scores.shape
    rows = np.arange(n)
    own = scores[rows, labels]  # (n,)
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, own, minlength=classes)
    typical = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)  # (classes,)
    rivals = np.where(scores >= typical, scores, -1.0)  # (n, classes)
    rivals[rows, labels] = -1.0
    best = rivals.argmax(axis=1)
    suspect = (rivals[rows, best] > own) & (own < typical[labels])
    suspects = np.flatnonzero(suspect)
    order = suspects[np.argsort(own[suspects] - scores[suspects, best[suspects]], kind="stable")]
    return [_suspect(labels, scores, int(i), int(best[i])) for i in order]


def _suspect(labels: np.ndarray, scores: np.ndarray, i: int, suggested: int) -> Suspect:
    label = int(labels[i])
    return Suspect(i, label, suggested, float(scores[i, label]), float(scores[i, suggested]))


def _of_classes(
    labels: np.ndarray, scores: np.ndarray, order: np.ndarray, chosen: np.ndarray
) -> list[Suspect]:
    """Returns of each example the chosen class that is highest in `order`; the highest first."""
    ranked = np.where(chosen, order, -np.inf)  # (n, classes)
    best = ranked.argmax(axis=1)
    rows = np.flatnonzero(chosen.any(axis=1))
    suspects = []
    for i in rows[np.argsort(-ranked[rows, best[rows]], kind="stable")].tolist():
        c, score = int(best[i]), float(scores[i, best[i]])
        there = labels[i, c] > 0.5
        suspects.append(
            Suspect(i, c, -1, score, 1 - score) if there else Suspect(i, -1, c, 1 - score, score)
        )
    return suspects


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Returns the mean of the values of each column that count, (classes,); infinite for none."""
    count = where.sum(axis=0)
    total = np.where(where, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)
