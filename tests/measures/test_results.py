"""The whole summary of a test set, against scikit-learn and a plain bootstrap."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ftkeras.errors import TrainingError, UserError
from ftkeras.measures.bootstrap import share_interval
from ftkeras.measures.metrics import scores_for, softmax
from ftkeras.measures.results import evaluate_predictions, format_results


def test_single_label_summary_agrees_with_scikit_learn(predictions):
    labels, logits = predictions(7, classes=6)
    names = [f"class {c}" for c in range(6)]
    summary = evaluate_predictions(labels, logits, names)
    predicted, scores = logits.argmax(axis=1), softmax(logits)
    assert summary["examples"] == 60
    assert summary["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert summary["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels, predicted, average="macro")
    )
    assert summary["auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr")
    )
    assert summary["nll"] == pytest.approx(sklearn_metrics.log_loss(labels, scores))
    assert summary["confusion_matrix"] == (
        sklearn_metrics.confusion_matrix(labels, predicted).tolist()
    )
    assert [row["name"] for row in summary["per_class"]] == names
    assert [row["support"] for row in summary["per_class"]] == np.bincount(labels).tolist()
    assert {"precision", "recall", "f1", "auc"} <= set(summary["per_class"][0])
    assert summary["top_5_accuracy"] >= summary["accuracy"]


def test_summary_of_several_labels_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random((50, 3)) < [0.5, 0.2, 0.8]
    logits = rng.normal(size=(50, 3)) + 2 * labels - 1
    summary = evaluate_predictions(labels.astype(np.float32), logits, ["a", "b", "c"])
    predicted = logits >= 0
    for average in ("micro", "macro"):
        assert summary[f"{average}_f1"] == pytest.approx(
            sklearn_metrics.f1_score(labels, predicted, average=average)
        )
    assert summary["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert summary["label_accuracy"] == pytest.approx(np.mean(labels == predicted))
    assert summary["mean_average_precision"] == pytest.approx(
        sklearn_metrics.average_precision_score(labels, logits, average="macro")
    )
    assert summary["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, logits))
    losses = [
        sklearn_metrics.log_loss(labels[:, c], 1 / (1 + np.exp(-logits[:, c]))) for c in range(3)
    ]
    assert summary["nll"] == pytest.approx(np.mean(losses))
    assert summary["per_class"][1]["support"] == labels[:, 1].sum()


def test_summary_is_strict_json_even_where_metrics_are_undefined():
    summary = evaluate_predictions(
        np.array([0, 0]), np.array([[2.0, 1.0, 0.0]] * 2), ["a", "b", "never"]
    )
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["auc"] is None and summary["intervals"]["auc"] is None
    assert summary["per_class"][2] == {
        "name": "never",
        "support": 0,
        "precision": None,
        "recall": None,
        "f1": None,
        "auc": None,
    }
    nothing = np.zeros((3, 2))
    summary = evaluate_predictions(nothing, nothing - 1, ["a", "b"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["accuracy"] == 1.0 and summary["macro_f1"] is None


def test_nothing_to_evaluate_and_diverged_logits_are_said_plainly():
    with pytest.raises(UserError, match="no examples"):
        evaluate_predictions(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"])
    with pytest.raises(TrainingError, match="diverged"):
        evaluate_predictions(np.array([0]), np.array([[np.nan, 0]]), ["a", "b"])


def test_the_temperature_changes_calibration_and_no_answer(predictions):
    labels, logits = predictions(2)
    plain = evaluate_predictions(labels, logits, list("abcd"))
    scaled = evaluate_predictions(labels, logits, list("abcd"), temperature=2.0)
    halved = evaluate_predictions(labels, logits / 2, list("abcd"))
    assert scaled["calibration"]["before"] == plain["calibration"]["before"]
    assert scaled["calibration"]["after"] == halved["calibration"]["before"]
    assert (scaled["accuracy"], scaled["nll"]) == (plain["accuracy"], plain["nll"])


# ------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("right", "examples", "low", "high"),
    # The last digits by scipy.stats.binomtest(...).proportion_ci(method="wilson").
    [(12, 12, 0.7575, 1.0), (0, 3, 0.0, 0.5615), (320, 400, 0.758, 0.836), (1, 1, 0.207, 1.0)],
)
def test_the_interval_of_a_share_is_wilsons(right, examples, low, high):
    assert share_interval(right / examples, examples) == pytest.approx([low, high], abs=5e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_interval_of_none_or_all_holds_them_in_spite_of_rounding(share):
    for examples in range(1, 2000):
        low, high = share_interval(share, examples)
        assert low <= share <= high, examples


def test_what_no_resample_changes_has_no_interval():
    summary = evaluate_predictions(np.array([0, 1, 0, 1]), np.eye(2)[[0, 1, 0, 1]], ["a", "b"])
    assert summary["macro_f1"] == 1.0 and summary["intervals"]["macro_f1"] is None
    assert summary["intervals"]["accuracy"] == pytest.approx([0.510, 1.0], abs=5e-4)


def test_accuracy_interval_is_the_binomial_one():
    labels = np.zeros(400, int)
    logits = np.where(np.arange(400)[:, None] < 320, [[1.0, 0.0]], [[0.0, 1.0]])
    columns = {"camera": np.array(["old", "new"] * 200)}
    summary = evaluate_predictions(labels, logits, ["a", "b"], columns=columns, resamples=4000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert summary["intervals"]["accuracy"] == pytest.approx([0.8 - half, 0.8 + half], abs=0.004)
    half *= np.sqrt(2)
    assert summary["slices"]["camera"]["old"]["interval"] == pytest.approx(
        [0.8 - half, 0.8 + half], abs=0.006
    )


@pytest.mark.parametrize("several", [False, True])
def test_intervals_match_a_plain_bootstrap_by_scikit_learn(predictions, several):
    labels, logits = predictions(11, classes=3, examples=150)
    targets = np.eye(3)[labels] if several else labels
    answers = logits >= 0 if several else logits.argmax(axis=1)
    scores = scores_for(targets, logits)
    summary = evaluate_predictions(targets, logits, ["a", "b", "c"])
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, 150, 150) for _ in range(250)]
    second = {
        "accuracy": [sklearn_metrics.accuracy_score(targets[d], answers[d]) for d in drawn],
        "macro_f1": [
            sklearn_metrics.f1_score(targets[d], answers[d], average="macro") for d in drawn
        ],
        "auc": [
            sklearn_metrics.roc_auc_score(targets[d], scores[d], multi_class="ovr") for d in drawn
        ],
    }
    if not several:
        second["nll"] = [sklearn_metrics.log_loss(targets[d], scores[d]) for d in drawn]
    for name, values in second.items():
        low, high = np.percentile(values, [2.5, 97.5])
        assert summary["intervals"][name] == pytest.approx([low, high], abs=0.2 * (high - low))
        assert summary["intervals"][name][0] < summary[name] < summary["intervals"][name][1]


def test_intervals_follow_the_seed(predictions):
    labels, logits = predictions(5)
    first, again, other = (
        evaluate_predictions(labels, logits, list("abcd"), seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first["intervals"] != other["intervals"]


# ---------------------------------------------------------------------------- slices


def test_slices_count_by_value_and_put_numbers_into_quarters():
    labels, logits = np.zeros(40, int), np.tile([[1.0, 0.0]], (40, 1))
    logits[:10] = [0.0, 1.0]  # the first ten are wrong
    columns = {
        "camera": np.array(["old"] * 10 + ["new"] * 30, object),
        "width": np.array([str(100 + i) for i in range(40)], object),
        "file": np.array([f"{i}.jpg" for i in range(40)], object),
        "always": np.array(["x"] * 40, object),
    }
    slices = evaluate_predictions(labels, logits, ["a", "b"], columns=columns)["slices"]
    assert list(slices) == ["camera", "width"]
    assert slices["camera"] == {
        "old": {"n": 10, "accuracy": 0.0, "interval": share_interval(0.0, 10)},
        "new": {"n": 30, "accuracy": 1.0, "interval": share_interval(1.0, 30)},
    }
    quarters = slices["width"]
    assert list(quarters)[0] == "Q1: 100 to 109.75"
    assert [row["n"] for row in quarters.values()] == [10, 10, 10, 10]
    assert [row["accuracy"] for row in quarters.values()] == [0.0, 1.0, 1.0, 1.0]


# ---------------------------------------------------------------------- what is shown


def test_format_results_shows_the_whole_each_class_and_each_slice():
    labels = np.array([0, 0, 1, 1])
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 2, 0]])
    columns = {"camera": np.array(["new", "old", "old", "old"])}
    results = evaluate_predictions(labels, logits, ["cat", "dog", "owl"], columns=columns)
    lines = format_results({"nouns": "clouds", **results}).splitlines()
    assert lines[0] == "4 clouds"
    assert any(line.split()[:2] == ["accuracy", "0.7500"] and " to " in line for line in lines)
    classes = lines.index(next(line for line in lines if line.startswith("class ")))
    assert lines[classes + 2 : classes + 5] == [
        "cat         2  1.0000     0.5000  0.6667  0.7500",
        "dog         2  0.6667     1.0000  0.8000  0.7500",
        "owl         0  -          -       -       -",
    ]
    assert lines[-1].startswith("camera  old         3  0.6667    ")


def test_format_results_of_many_classes_shows_the_worst():
    names = [f"class {c}" for c in range(40)]
    logits = np.eye(40)
    logits[17] = 0
    logits[17, 3] = 1  # 17 is never found
    text = format_results(evaluate_predictions(np.arange(40), logits, names))
    assert "class 17 " in text and text.endswith("(30 of 40 classes)")
    assert text.count("\nclass ") == 31  # with the title
