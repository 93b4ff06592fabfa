"""Metrics against hand-written values, scikit-learn and closed forms."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from ftkeras.errors import TrainingError, UserError
from ftkeras.evaluation import metrics

seeds = st.integers(0, 2**31 - 1)


def predictions(seed: int, classes: int = 4, examples: int = 60):
    """Returns random labels and logits that lean towards them, with ties among the logits."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples)
    logits = np.round(rng.normal(size=(examples, classes)) + 1.5 * np.eye(classes)[labels], 1)
    return labels, logits, rng.uniform(0.1, 3.0, examples)


# --------------------------------------------------------------------------- by hand


def test_scores_from_logits_by_hand():
    odds = np.log([[1.0, 3.0], [2.0, 2.0]])
    np.testing.assert_allclose(
        metrics.scores_from_logits(odds, multi_label=False), [[0.25, 0.75], [0.5, 0.5]]
    )
    np.testing.assert_allclose(
        metrics.scores_from_logits(odds, multi_label=True), [[1 / 2, 3 / 4], [2 / 3, 2 / 3]]
    )


def test_scores_from_logits_survive_huge_logits():
    huge = np.array([[1e4, -1e4]])
    np.testing.assert_array_equal(metrics.scores_from_logits(huge, multi_label=False), [[1, 0]])
    np.testing.assert_array_equal(metrics.scores_from_logits(huge, multi_label=True), [[1, 0]])
    assert metrics.negative_log_likelihood(np.array([1]), huge) == 2e4


def test_class_metrics_by_hand():
    # Class 0: 3 there, 2 of them found, 4 answered. Class 1: never there, never answered.
    each = metrics.class_metrics(np.array([2, 0]), np.array([3, 0]), np.array([4, 0]))
    assert each.precision[0] == 2 / 4
    assert each.recall[0] == 2 / 3
    assert each.f1[0] == pytest.approx(4 / 7)
    assert np.isnan([each.precision[1], each.recall[1], each.f1[1]]).all()


def test_top_k_gives_equals_to_the_lower_index():
    scores = np.array([[1.0, 1.0, 0.0]])
    assert metrics.top_k_accuracy(np.array([0]), scores, 1) == 1.0
    assert metrics.top_k_accuracy(np.array([1]), scores, 1) == 0.0
    assert metrics.top_k_accuracy(np.array([1]), scores, 2) == 1.0


def test_calibration_error_by_hand():
    # Bin (0.5, 0.6]: confidence 0.55 and 0.6, one right of two. Bin (0.9, 1]: 0.95, right.
    correct = np.array([True, False, True])
    confidence = np.array([0.55, 0.6, 0.95])
    expected = 2 / 3 * abs(0.5 - 0.575) + 1 / 3 * abs(1 - 0.95)
    assert metrics.expected_calibration_error(correct, confidence, bins=10) == pytest.approx(
        expected
    )


def test_calibration_error_of_a_sure_and_wrong_model_is_one():
    assert metrics.expected_calibration_error(np.zeros(5), np.ones(5)) == 1.0


def test_auc_of_one_class_only_is_undefined():
    assert np.isnan(metrics.auc(np.ones(3, bool), np.arange(3.0)))
    assert np.isnan(metrics.average_precision(np.zeros(3, bool), np.arange(3.0)))


# ---------------------------------------------------------------------- scikit-learn


@given(seed=seeds, weighted=st.booleans())
@settings(max_examples=40, deadline=None)
def test_single_label_metrics_agree_with_scikit_learn(seed, weighted):
    labels, logits, weights = predictions(seed)
    weights = weights if weighted else None
    predicted = logits.argmax(axis=1)
    scores = metrics.scores_from_logits(logits, multi_label=False)

    matrix = metrics.confusion_matrix(labels, predicted, 4, weights)
    np.testing.assert_allclose(
        matrix,
        sklearn_metrics.confusion_matrix(labels, predicted, labels=range(4), sample_weight=weights),
    )
    each = metrics.class_metrics(matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0))
    second = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(4), sample_weight=weights, zero_division=np.nan
    )
    for ours, theirs in zip(each, second, strict=False):
        np.testing.assert_allclose(ours, theirs)
    assert metrics.top_k_accuracy(labels, logits, 1, weights) == pytest.approx(
        sklearn_metrics.accuracy_score(labels, predicted, sample_weight=weights)
    )
    assert metrics.negative_log_likelihood(labels, logits, weights) == pytest.approx(
        sklearn_metrics.log_loss(labels, scores, labels=range(4), sample_weight=weights)
    )
    positive = labels == labels[0]
    assert metrics.auc(positive, logits[:, 0], weights) == pytest.approx(
        sklearn_metrics.roc_auc_score(positive, logits[:, 0], sample_weight=weights)
    )
    assert metrics.average_precision(positive, logits[:, 0], weights) == pytest.approx(
        sklearn_metrics.average_precision_score(positive, logits[:, 0], sample_weight=weights)
    )


@given(seed=seeds, k=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_top_k_agrees_with_scikit_learn(seed, k):
    labels, logits, weights = predictions(seed)
    logits += np.random.default_rng(seed).uniform(0, 0.01, logits.shape)  # the two break ties apart
    assert metrics.top_k_accuracy(labels, logits, k, weights) == pytest.approx(
        sklearn_metrics.top_k_accuracy_score(
            labels, logits, k=k, labels=range(4), sample_weight=weights
        )
    )


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_weights_count_examples(seed):
    """A weight of 2 is the same as an example given twice."""
    labels, logits, _ = predictions(seed)
    weights = np.random.default_rng(seed).integers(1, 4, len(labels))
    again = np.repeat(np.arange(len(labels)), weights)
    scores = metrics.scores_from_logits(logits, multi_label=False)
    correct, confidence = logits.argmax(axis=1) == labels, scores.max(axis=1)
    assert metrics.expected_calibration_error(
        correct, confidence, weights=weights
    ) == pytest.approx(metrics.expected_calibration_error(correct[again], confidence[again]))
    assert metrics.auc(labels == 0, logits[:, 0], weights) == pytest.approx(
        metrics.auc(labels[again] == 0, logits[again, 0]), nan_ok=True
    )


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_auc_depends_on_ranks_alone(seed):
    labels, logits, _ = predictions(seed)
    score, positive = logits[:, 0], labels == 0
    assert metrics.auc(positive, score) == metrics.auc(positive, np.exp(3 * score))
    assert metrics.auc(positive, score) + metrics.auc(positive, -score) == pytest.approx(
        1.0, nan_ok=True
    )


# ----------------------------------------------------------------- the whole summary


def test_single_label_summary_agrees_with_scikit_learn():
    labels, logits, _ = predictions(7, classes=6)
    names = [f"class {c}" for c in range(6)]
    summary = metrics.evaluate_predictions(labels, logits, names, multi_label=False)
    predicted = logits.argmax(axis=1)
    scores = metrics.scores_from_logits(logits, multi_label=False)
    assert summary["examples"] == 60
    assert summary["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert summary["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels, predicted, average="macro")
    )
    assert summary["auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr")
    )
    assert summary["confusion_matrix"] == (
        sklearn_metrics.confusion_matrix(labels, predicted).tolist()
    )
    assert [row["name"] for row in summary["per_class"]] == names
    assert [row["support"] for row in summary["per_class"]] == np.bincount(labels).tolist()
    assert {"precision", "recall", "f1", "auc"} <= set(summary["per_class"][0])
    assert summary["top_5_accuracy"] >= summary["accuracy"]


def test_one_hot_labels_mean_the_same():
    labels, logits, _ = predictions(3)
    names = ["a", "b", "c", "d"]
    assert metrics.evaluate_predictions(
        np.eye(4, dtype=np.float32)[labels], logits, names, multi_label=False
    ) == metrics.evaluate_predictions(labels, logits, names, multi_label=False)


def test_multi_label_summary_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random((50, 3)) < [0.5, 0.2, 0.8]
    logits = rng.normal(size=(50, 3)) + 2 * labels - 1
    summary = metrics.evaluate_predictions(
        labels.astype(np.float32), logits, ["a", "b", "c"], multi_label=True
    )
    predicted = logits >= 0
    for average in ("micro", "macro"):
        assert summary[f"{average}_f1"] == pytest.approx(
            sklearn_metrics.f1_score(labels, predicted, average=average)
        )
    assert summary["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert summary["label_accuracy"] == np.mean(labels == predicted)
    assert summary["mean_average_precision"] == pytest.approx(
        sklearn_metrics.average_precision_score(labels, logits, average="macro")
    )
    assert summary["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, logits))
    assert summary["negative_log_likelihood"] == pytest.approx(
        np.mean(
            [
                sklearn_metrics.log_loss(labels[:, c], 1 / (1 + np.exp(-logits[:, c])))
                for c in range(3)
            ]
        )
    )
    assert summary["per_class"][1]["support"] == labels[:, 1].sum()


def test_summary_is_strict_json_even_where_metrics_are_undefined():
    summary = metrics.evaluate_predictions(
        np.array([0, 0]), np.array([[2.0, 1.0, 0.0]] * 2), ["a", "b", "never"], multi_label=False
    )
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["auc"] is None
    assert summary["per_class"][2] == {
        "name": "never",
        "support": 0,
        "precision": None,
        "recall": None,
        "f1": None,
        "auc": None,
    }
    nothing = np.zeros((3, 2))
    summary = metrics.evaluate_predictions(nothing, nothing - 1, ["a", "b"], multi_label=True)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["accuracy"] == 1.0 and summary["macro_f1"] is None


def test_nothing_to_evaluate_and_diverged_logits_are_said_plainly():
    with pytest.raises(UserError, match="no images"):
        metrics.evaluate_predictions(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"], False)
    with pytest.raises(TrainingError, match="diverged"):
        metrics.evaluate_predictions(np.array([0]), np.array([[np.nan, 0]]), ["a", "b"], False)


def test_format_results_shows_the_whole_and_each_class():
    labels = np.array([0, 0, 1, 1])
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 2, 0]])
    lines = metrics.format_results(
        metrics.evaluate_predictions(labels, logits, ["cat", "dog", "owl"], multi_label=False)
    ).splitlines()
    assert lines[0] == "4 images"
    assert any(line.split()[:2] == ["accuracy", "0.7500"] and " to " in line for line in lines)
    assert lines[-3:] == [
        "cat         2  1.0000     0.5000  0.6667  0.7500",
        "dog         2  0.6667     1.0000  0.8000  0.7500",
        "owl         0  -          -       -       -",
    ]


def test_format_results_of_many_classes_shows_the_worst():
    names = [f"class {c}" for c in range(40)]
    logits = np.eye(40)
    logits[17] = 0
    logits[17, 3] = 1  # 17 is never found
    text = metrics.format_results(
        metrics.evaluate_predictions(np.arange(40), logits, names, multi_label=False)
    )
    assert "class 17 " in text and text.endswith("(30 of 40 classes)")
    assert text.count("\nclass ") == 31  # with the title


# ------------------------------------------------------------------------- intervals


def test_accuracy_interval_is_the_binomial_one():
    labels = np.zeros(400, int)
    logits = np.where(np.arange(400)[:, None] < 320, [[1.0, 0.0]], [[0.0, 1.0]])
    summary = metrics.evaluate_predictions(labels, logits, ["a", "b"], False, resamples=4000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert summary["intervals"]["accuracy"] == pytest.approx([0.8 - half, 0.8 + half], abs=0.004)


@pytest.mark.parametrize("multi_label", [False, True])
def test_intervals_match_a_plain_bootstrap_over_examples(multi_label):
    labels, logits, _ = predictions(11, classes=3, examples=80)
    targets = np.eye(3)[labels] if multi_label else labels
    answers = logits >= 0 if multi_label else logits.argmax(axis=1)
    summary = metrics.evaluate_predictions(targets, logits, ["a", "b", "c"], multi_label)
    rng = np.random.default_rng(1)
    f1s = []
    for _ in range(1000):
        drawn = rng.integers(0, 80, 80)
        f1s.append(sklearn_metrics.f1_score(targets[drawn], answers[drawn], average="macro"))
    expected = np.percentile(f1s, [2.5, 97.5])
    assert summary["intervals"]["macro_f1"] == pytest.approx(expected, abs=0.015)
    low, high = summary["intervals"]["macro_f1"]
    assert low < summary["macro_f1"] < high


def test_intervals_follow_the_seed_and_are_fast():
    labels, logits, _ = predictions(5, classes=100, examples=10_000)
    names = [str(c) for c in range(100)]
    start = time.monotonic()
    first = metrics.evaluate_predictions(labels, logits, names, False, seed=1)
    assert time.monotonic() - start < 10
    assert first == metrics.evaluate_predictions(labels, logits, names, False, seed=1)
    assert (
        first["intervals"]
        != (metrics.evaluate_predictions(labels, logits, names, False, seed=2)["intervals"])
    )
