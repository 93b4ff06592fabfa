"""How good predictions are: plain NumPy, in definitions that scikit-learn shares.

Single-label functions take `labels` as class indices, int (n,); multi-label ones take them
multi-hot, (n, classes). What is undefined (the precision of a class that was never predicted, the
AUC of a class without examples) is NaN in arrays, is left out of averages, and is None in the
dict of `evaluate_predictions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ftkeras.console import table
from ftkeras.errors import TrainingError, UserError

_INTERVAL = (2.5, 97.5)  # percentiles: a 95% interval
_MOST_ROWS = 30  # of a table for people


class ClassMetrics(NamedTuple):
    """Precision, recall and F1, each (..., classes)."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def scores_from_logits(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """Returns softmax scores, or sigmoid ones where each label is its own question.

    Args:
        logits: Float (n, classes).
        multi_label: Whether an example may have any number of labels.
    """
    logits = np.asarray(logits, np.float64)
    if multi_label:
        return 0.5 * (1.0 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
    return np.exp(logits - _log_sum_exp(logits)[:, None])


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Returns (classes, classes): how many examples of each true class (row) got each answer."""
    cells = labels.astype(np.int64) * classes + predicted
    return np.bincount(cells, weights, minlength=classes**2).reshape(classes, classes)


def top_k_accuracy(
    labels: np.ndarray, scores: np.ndarray, k: int, weights: np.ndarray | None = None
) -> float:
    """Returns how often the true class is among the k best; of equals the lower index wins.

    Args:
        labels: Int (n,).
        scores: Float (n, classes): probabilities or logits.
        k: How many answers count; 1 is plain accuracy.
        weights: Float (n,), or None for equal weights.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)  # (n, 1)
    first_of_equals = np.arange(scores.shape[1]) < labels[:, None]  # (n, classes)
    ahead = (scores > own) | ((scores == own) & first_of_equals)
    return float(np.average(ahead.sum(axis=1) < k, weights=weights))


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
        precision=_ratio(true_positives, predicted),
        recall=_ratio(true_positives, actual),
        f1=_ratio(2 * true_positives, actual + predicted),
    )


def auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Returns the area under the ROC curve: how often a positive outranks a negative.

    Exact, with ties counted half: the Mann-Whitney statistic.

    Args:
        positive: Bool (n,).
        score: Float (n,), any increasing function of the belief in "positive".
        weights: Float (n,), or None for equal weights.
    """
    hits, alarms = _sweep(positive, score, weights)
    area = np.sum(np.diff(alarms) * (hits[1:] + hits[:-1]) / 2)
    return float(_ratio(area, hits[-1] * alarms[-1]))


def average_precision(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Returns the precision at each positive found, from the best score down, averaged."""
    hits, alarms = _sweep(positive, score, weights)
    precision = _ratio(hits[1:], hits[1:] + alarms[1:])
    return float(_ratio(np.sum(np.diff(hits) * precision), hits[-1]))


def negative_log_likelihood(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Returns the mean of -log p(label), in nats.

    Args:
        labels: Int (n,); or multi-hot (n, classes), whose likelihood is averaged over the classes.
        logits: Float (n, classes).
        weights: Float (n,), or None for equal weights.
    """
    logits = np.asarray(logits, np.float64)
    if labels.ndim == 2:
        each = (np.logaddexp(0.0, logits) - labels * logits).mean(axis=1)
    else:
        own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        each = _log_sum_exp(logits) - own
    return float(np.average(each, weights=weights))


def expected_calibration_error(
    correct: np.ndarray, confidence: np.ndarray, bins: int = 15, weights: np.ndarray | None = None
) -> float:
    """Returns the mean gap between confidence and accuracy, over equal-width bins.

    Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Args:
        correct: Bool (n,): whether the answer was right.
        confidence: Float (n,) in 0..1: the probability that the model gave its answer.
        bins: How many bins (lower, upper] divide 0..1.
        weights: Float (n,), or None for equal weights.
    """
    weights = np.ones(len(confidence)) if weights is None else weights
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(bin_of, weights * (correct - confidence), minlength=bins)
    return float(np.abs(gap).sum() / weights.sum())


def evaluate_predictions(
    labels: np.ndarray,
    logits: np.ndarray,
    class_names: Sequence[str],
    multi_label: bool,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns everything that is measured of a test set, ready for JSON.

    `intervals` holds 95% percentile bootstrap intervals over the examples. Of a multi-label model
    `accuracy` asks that all labels of an example are right (subset accuracy, as in scikit-learn),
    and `label_accuracy` counts each label by itself.

    Args:
        labels: Int (n,), or one-hot or multi-hot (n, classes).
        logits: Float (n, classes).
        class_names: One name a class.
        multi_label: Whether an example may have any number of labels; one counts as predicted
            where its score is at least 0.5.
        resamples: How many times the bootstrap draws the test set anew.
        seed: Of the bootstrap.

    Raises:
        UserError: There is nothing to evaluate.
        TrainingError: The logits are not finite: training diverged.
    """
    labels, logits = np.asarray(labels), np.asarray(logits)
    if not len(labels):
        raise UserError("evaluate: the split has no images. Choose another split.")
    if not np.isfinite(logits).all():
        raise TrainingError(
            "evaluate: the model's outputs are not finite, so training diverged. "
            "Lower the learning rate, or set optimizer.clip_norm."
        )
    if multi_label:
        return _evaluate_multi_label(labels > 0.5, logits, class_names, resamples, seed)
    labels = labels.argmax(axis=1) if labels.ndim == 2 else labels
    return _evaluate_single_label(labels, logits, class_names, resamples, seed)


def format_results(results: dict[str, Any]) -> str:
    """Returns what `evaluate_predictions` measured as two tables: the whole, and each class.

    Where there are many classes, those with the lowest F1 are shown.
    """

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    intervals = results["intervals"]
    whole = [
        (name.replace("_", " "), shown(value), " to ".join(map(shown, intervals.get(name) or ())))
        for name, value in results.items()
        if value is None or isinstance(value, float)
    ]
    worst = sorted(results["per_class"], key=lambda row: -1.0 if row["f1"] is None else row["f1"])
    each = results["per_class"] if len(worst) <= _MOST_ROWS else worst[:_MOST_ROWS]
    columns = [name for name in each[0] if name not in ("name", "support")]
    cells = [(row["name"], row["support"], *(shown(row[c]) for c in columns)) for row in each]
    titles = ("class", "images", *(c.replace("_", " ") for c in columns))
    note = "" if each is results["per_class"] else f"\n({_MOST_ROWS} of {len(worst)} classes)"
    return (
        f"{results['examples']} images\n\n{table(whole, ('metric', 'value', '95% interval'))}"
        f"\n\n{table(cells, titles)}{note}"
    )


def _evaluate_single_label(
    labels: np.ndarray, logits: np.ndarray, names: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    classes = len(names)
    scores = scores_from_logits(logits, multi_label=False)
    predicted = logits.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted, classes)
    support = matrix.sum(axis=1)
    each = class_metrics(matrix.diagonal(), support, matrix.sum(axis=0))
    areas = np.array([auc(labels == c, scores[:, c]) for c in range(classes)])
    rows, columns = np.nonzero(matrix)  # (outcomes,): the distinct (truth, answer) pairs
    outcomes = np.arange(len(rows))
    intervals = _intervals(
        matrix[rows, columns], (outcomes, rows), (outcomes, columns), classes, resamples, seed
    )
    top_5 = {"top_5_accuracy": top_k_accuracy(labels, scores, 5)} if classes > 5 else {}
    return {
        "examples": len(labels),
        "accuracy": float(np.mean(predicted == labels)),
        **top_5,
        "macro_f1": _mean(each.f1),
        "auc": _mean(areas),
        "negative_log_likelihood": negative_log_likelihood(labels, logits),
        "expected_calibration_error": expected_calibration_error(
            predicted == labels, scores.max(axis=1)
        ),
        "intervals": {"accuracy": intervals["exact"], "macro_f1": intervals["macro_f1"]},
        "per_class": _per_class(names, support, each, {"auc": areas}),
        "confusion_matrix": matrix.tolist(),
    }


def _evaluate_multi_label(
    labels: np.ndarray, logits: np.ndarray, names: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    classes = len(names)
    scores = scores_from_logits(logits, multi_label=True)
    predicted = scores >= 0.5
    hits, support, answers = (m.sum(axis=0) for m in (labels & predicted, labels, predicted))
    each = class_metrics(hits, support, answers)
    areas = np.array([auc(labels[:, c], scores[:, c]) for c in range(classes)])
    precisions = np.array([average_precision(labels[:, c], scores[:, c]) for c in range(classes)])
    outcomes, counts = np.unique(np.hstack([labels, predicted]), axis=0, return_counts=True)
    intervals = _intervals(
        counts,
        np.nonzero(outcomes[:, :classes]),
        np.nonzero(outcomes[:, classes:]),
        classes,
        resamples,
        seed,
    )
    return {
        "examples": len(labels),
        "accuracy": float(np.mean((labels == predicted).all(axis=1))),
        "label_accuracy": float(np.mean(labels == predicted)),
        "micro_f1": _number(_ratio(2 * hits.sum(), support.sum() + answers.sum())),
        "macro_f1": _mean(each.f1),
        "mean_average_precision": _mean(precisions),
        "auc": _mean(areas),
        "negative_log_likelihood": negative_log_likelihood(labels, logits),
        "expected_calibration_error": expected_calibration_error(labels.ravel(), scores.ravel()),
        "intervals": {"accuracy": intervals["exact"], "macro_f1": intervals["macro_f1"]},
        "per_class": _per_class(
            names, support, each, {"auc": areas, "average_precision": precisions}
        ),
    }


def _intervals(
    counts: np.ndarray,
    actual: tuple[np.ndarray, ...],
    predicted: tuple[np.ndarray, ...],
    classes: int,
    resamples: int,
    seed: int,
) -> dict[str, list[float] | None]:
    """Returns the bootstrap intervals of exact matches and of macro-F1.

    Both depend only on how often each distinct outcome (what was true, what was answered) came
    up, so a resample is one multinomial draw over the outcomes, however many examples there are.

    Args:
        counts: (outcomes,) examples with each outcome.
        actual: (outcome, class) index pairs of what was true, as `np.nonzero` gives them.
        predicted: The same of what was answered.
    """
    truths, answers = np.zeros((2, len(counts), classes), bool)
    truths[actual] = True
    answers[predicted] = True
    exact = (truths == answers).all(axis=1)
    hit = np.nonzero(truths & answers)
    accuracies, f1s = np.empty((2, resamples))
    examples, generator = counts.sum(), np.random.default_rng(seed)
    for i in range(resamples):
        drawn = generator.multinomial(examples, counts / examples)  # (outcomes,)
        hits, there, said = (
            np.bincount(of_class, drawn[outcome], minlength=classes)
            for outcome, of_class in (hit, actual, predicted)
        )
        accuracies[i] = drawn[exact].sum() / examples
        f1s[i] = _mean(class_metrics(hits, there, said).f1)  # None, so NaN, where none is defined
    return {
        "exact": np.percentile(accuracies, _INTERVAL).tolist(),
        "macro_f1": None if np.isnan(f1s).all() else np.nanpercentile(f1s, _INTERVAL).tolist(),
    }


def _per_class(
    names: Sequence[str], support: np.ndarray, each: ClassMetrics, more: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    columns = {**each._asdict(), **more}
    return [
        {
            "name": name,
            "support": int(support[c]),
            **{column: _number(values[c]) for column, values in columns.items()},
        }
        for c, name in enumerate(names)
    ]


def _sweep(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weight of positives and negatives at or above each distinct score, from zero."""
    weights = np.ones(len(score)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-score, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    is_positive = np.asarray(positive, bool)[order]
    hits = np.cumsum(weights[order] * is_positive)[last_of_equals]
    alarms = np.cumsum(weights[order] * ~is_positive)[last_of_equals]
    return np.append(0.0, hits), np.append(0.0, alarms)


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    highest = logits.max(axis=1)
    return highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))  # (n,)


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """Returns part / whole, NaN where the whole is nothing."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float | None:
    """Returns the mean of what is defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
