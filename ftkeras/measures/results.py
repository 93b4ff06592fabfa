"""Everything that is measured of a test set: what `evaluation.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ftkeras.console import table
from ftkeras.errors import UserError
from ftkeras.measures.bootstrap import RESAMPLES, bootstrap, interval, share_interval
from ftkeras.measures.calibration import BINS, bin_of, calibration, outcomes
from ftkeras.measures.metrics import (
    ClassMetrics,
    auc_shares,
    average_precision,
    check_finite,
    class_metrics,
    confusion_matrix,
    correct_answers,
    in_top_k,
    log_losses,
    ratio,
    softmax,
)
from ftkeras.measures.slices import accuracy_by_slice

_NAMED = 20  # classes, in a sentence
_MOST_ROWS = 30  # of a table for people
_TITLES = {
    "auc": "AUC",
    "ece": "expected calibration error",
    "nll": "negative log likelihood",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R squared",
    "baseline_mae": "mean absolute error of the mean",
    "baseline_rmse": "root mean squared error of the mean",
}


def evaluate_predictions(
    labels: np.ndarray,
    logits: np.ndarray,
    class_names: Sequence[str],
    *,
    temperature: float = 1.0,
    columns: Mapping[str, np.ndarray] | None = None,
    thresholds: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns everything that is measured of a test set, ready for JSON.

    `intervals` are 95%: Wilson's of shares, percentile bootstrap ones of the rest. `ece` and `nll`
    are of the logits as they are; `calibration` has them before and after the temperature. Of
    several labels `accuracy` asks that all of an example are right (as in scikit-learn), and
    `label_accuracy` counts each by itself. What is undefined is None, and left out of averages.

    Args:
        labels: Int (n,), one label each; or multi-hot (n, classes), any number of labels, of which
            one counts as predicted if its score reaches its threshold.
        logits: Float (n, classes).
        class_names: One name per class.
        temperature: What the logits are divided by when the model is used.
        columns: More that is known of the examples, str (n,) each, to be measured by value.
        thresholds: Of several labels the score, after the temperature, from which on each counts;
            0.5 each if left out.
        resamples: How many times the bootstrap draws the test set.
        seed: Of the bootstrap.

    Raises:
        UserError: There is nothing to evaluate.
        TrainingError: The logits are not finite: training diverged.
    """
    labels, logits = np.asarray(labels), np.asarray(logits)
    if not len(labels):
        raise UserError("evaluate: the split has no examples. Choose another split.")
    check_finite(logits)
    labels = labels > 0.5 if (several := labels.ndim == 2) else labels
    level = np.asarray(thresholds or 0.5, np.float64)
    cuts = temperature * (np.log(level) - np.log1p(-level))
    correct = correct_answers(labels, logits, cuts)
    evaluate = _evaluate_several_labels if several else _evaluate_one_label
    measured = evaluate(labels, logits, class_names, cuts if several else correct,
                        resamples=resamples, seed=seed)  # fmt: skip
    return {
        "examples": len(labels),
        **measured,
        **({"thresholds": list(thresholds)} if thresholds else {}),
        "temperature": float(temperature),
        "calibration": {
            "before": calibration(labels, logits),
            "after": calibration(labels, logits / temperature),
        },
        "slices": accuracy_by_slice(columns or {}, correct),
    }


def _evaluate_one_label(
    labels: np.ndarray, logits: np.ndarray, names: Sequence[str], correct: np.ndarray, **draw: int
) -> dict[str, Any]:
    classes, everyone = len(names), np.arange(len(labels))
    predicted = logits.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted, classes)
    support = matrix.sum(axis=1)
    each = class_metrics(matrix.diagonal(), support, matrix.sum(axis=0))
    scores = softmax(logits)
    areas, shares = _areas(labels[:, None] == np.arange(classes), scores)
    top_5 = {"top_5_accuracy": in_top_k(labels, logits, 5)} if classes > 5 else {}
    means = {"accuracy": correct, **top_5, "auc": shares, "nll": log_losses(labels, logits)}
    answers = outcomes(labels, logits)
    pairs = ((everyone[correct], labels[correct]), (everyone, labels), (everyone, predicted))
    return {
        **_with_intervals(means, pairs, answers, classes, **draw),
        "per_class": _per_class(names, support, each, {"auc": areas}),
        "confusion_matrix": matrix.tolist(),
    }


def _evaluate_several_labels(
    labels: np.ndarray, logits: np.ndarray, names: Sequence[str], cuts: np.ndarray, **draw: int
) -> dict[str, Any]:
    predicted = logits >= cuts
    hits, support, answered = (m.sum(axis=0) for m in (labels & predicted, labels, predicted))
    each = class_metrics(hits, support, answered)
    areas, shares = _areas(labels, logits)
    precisions = np.array(
        [average_precision(*pair) for pair in zip(labels.T, logits.T, strict=True)]
    )
    means = {
        "accuracy": (labels == predicted).all(axis=1),
        "label_accuracy": (labels == predicted).mean(axis=1),
        "auc": shares,
        "nll": log_losses(labels, logits),
    }
    answers = outcomes(labels, logits)
    pairs = tuple(np.nonzero(m) for m in (labels & predicted, labels, predicted))
    return {
        **_with_intervals(means, pairs, answers, len(names), **draw),
        "micro_f1": _number(ratio(2 * hits.sum(), support.sum() + answered.sum())),
        "mean_average_precision": _mean(precisions),
        "per_class": _per_class(
            names, support, each, {"auc": areas, "average_precision": precisions}
        ),
    }


def _areas(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each class's AUC (classes,) and each example's share (n,) in their mean."""
    areas, total = np.full(scores.shape[1], np.nan), np.zeros(len(scores))
    for c in range(len(areas)):
        shares = auc_shares(positive[:, c], scores[:, c])
        areas[c] = shares.mean()
        total += np.nan_to_num(shares)
    return areas, ratio(total, np.count_nonzero(~np.isnan(areas)))


def _with_intervals(
    means: Mapping[str, np.ndarray],
    pairs: Sequence[Sequence[np.ndarray]],
    answers: tuple[np.ndarray, np.ndarray],
    classes: int,
    **draw: int,
) -> dict[str, Any]:
    """Returns the means, macro-F1 and the calibration error, and `intervals` of them all.

    Args:
        means: Float (n,) of each measure that is a mean over examples.
        pairs: (example, class) index pairs of what was hit, what was true, what was answered.
        answers: Whether each answer was right and how sure it was, (n,) or (n * classes,).
        classes: How many classes there are.
        **draw: How the bootstrap draws.
    """
    correct, confidence = answers
    examples, count = len(next(iter(means.values()))), len(correct)
    # How far confidence is off, by example and bin: (n, bins).
    cells = np.arange(count) // (count // examples) * BINS + bin_of(confidence)
    gaps = np.bincount(cells, correct - confidence, minlength=examples * BINS)
    sums = np.column_stack([*means.values(), gaps.reshape(examples, BINS)])

    def statistics(drawn: np.ndarray) -> list[float]:
        totals, gap = np.split(drawn @ sums, [len(means)])
        counts = [np.bincount(c, drawn[example], minlength=classes) for example, c in pairs]
        f1 = _mean(class_metrics(*counts).f1)
        error = np.abs(gap).sum() / count
        return [*(totals / examples), np.nan if f1 is None else f1, error]

    names = [*means, "macro_f1", "ece"]
    measured = dict(zip(names, map(_number, statistics(np.ones(examples))), strict=True))
    columns = bootstrap(statistics, examples, **draw).T
    intervals = {name: _resampled(column) for name, column in zip(names, columns, strict=True)}
    for name, values in means.items():
        if values.dtype == bool:
            intervals[name] = share_interval(float(values.mean()), examples)
    if intervals["auc"] is not None:  # a first-order bootstrap may step over the end of the scale
        intervals["auc"] = np.clip(intervals["auc"], 0.0, 1.0).tolist()
    return {**measured, "intervals": intervals}


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


def _mean(values: np.ndarray) -> float | None:
    """Returns the mean of what is defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _resampled(values: np.ndarray) -> list[float] | None:
    """Returns the interval; None if all resamples say the same, as if luck had no part in it."""
    ends = interval(values)
    return None if ends is None or np.ptp(values[~np.isnan(values)]) == 0 else ends


def lacking(results: Mapping[str, Any]) -> str:
    """Returns a sentence that names the classes without an example; empty if there are none."""
    missing = [row["name"] for row in results.get("per_class", ()) if not row["support"]]
    if not missing:
        return ""
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return f"measured without an example of {', '.join(missing[:_NAMED])}{more}"


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def headline(results: Mapping[str, Any]) -> str:
    """Returns what `measure` returned in one line."""
    if "heads" in results:
        mains = {name: main_metric(part) for name, part in results["heads"].items()}
        shown = [f"{name} {m[0]} {m[1]:.4f}" for name, m in mains.items() if m is not None]
        return f"{results['split']} {', '.join(shown)}"
    name, value = main_metric(results, ("accuracy", "mae")) or ("", 0.0)
    low, high = results["intervals"][name]
    rest = (
        f"macro-F1 {results['macro_f1']:.4f}"
        if "macro_f1" in results
        else f"{results['baseline_mae']:.4f} if it always said the mean of training"
    )
    between = f"(95% interval {low:.3f} to {high:.3f})"
    line = f"{results['split']} {name} {value:.4f} {between}, {rest}"
    return f"{line}\n{lack}" if (lack := lacking(results)) else line


def main_metric(
    results: Mapping[str, Any], among: Sequence[str] = ("label_accuracy", "accuracy", "mae")
) -> tuple[str, float] | None:
    """Returns the name and value of the metric that says most about an output."""
    return next(((m, results[m]) for m in among if results.get(m) is not None), None)


def format_results(results: Mapping[str, Any]) -> str:
    """Returns what `measure` returned as tables, one output after the other."""
    nouns = results.get("nouns", "examples")
    if "heads" in results:
        return "\n\n".join(
            f"{name} ({part['kind']})\n{format_results({'nouns': nouns, **part})}"
            for name, part in results["heads"].items()
        )
    whole = [
        (
            _TITLES.get(name, name.replace("_", " ")),
            _shown(value),
            _span(results["intervals"].get(name)),
        )
        for name, value in results.items()
        if value is None or isinstance(value, float)
    ]
    text = f"{results['examples']} {nouns}\n\n{table(whole, ('metric', 'value', '95% interval'))}"
    return text + (_format_classes(results, nouns) if "per_class" in results else "")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _span(bounds: Sequence[float] | None) -> str:
    return " to ".join(map(_shown, bounds or ()))


def _format_classes(results: Mapping[str, Any], nouns: str) -> str:
    """Returns tables of the classes and of the slices; of many classes, the lowest F1."""
    worst = sorted(results["per_class"], key=lambda row: -1.0 if row["f1"] is None else row["f1"])
    each = results["per_class"] if len(worst) <= _MOST_ROWS else worst[:_MOST_ROWS]
    columns = [name for name in each[0] if name not in ("name", "support")]
    cells = [(row["name"], row["support"], *(_shown(row[c]) for c in columns)) for row in each]
    titles = ("class", nouns, *(_TITLES.get(c, c.replace("_", " ")) for c in columns))
    note = "" if each is results["per_class"] else f"\n({_MOST_ROWS} of {len(worst)} classes)"
    after = results["calibration"]["after"]
    lack = lacking(results)
    text = f"\n{lack}" if lack else ""
    text += (
        f"\nat the temperature: expected calibration error {after['ece']:.4f}, negative log "
        f"likelihood {after['nll']:.4f}\n\n{table(cells, titles)}{note}"
    )
    slices = [
        (column, value, row["n"], _shown(row["accuracy"]), _span(row["interval"]))
        for column, values in results["slices"].items()
        for value, row in values.items()
    ]
    if slices:
        text += "\n\n" + table(slices, ("column", "value", nouns, "accuracy", "95% interval"))
    return text
