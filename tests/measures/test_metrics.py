"""Metrics against hand-written values, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from ftkeras.measures import metrics

seeds = st.integers(0, 2**31 - 1)


# --------------------------------------------------------------------------- by hand


def test_scores_by_hand():
    odds = np.log([[1.0, 3.0], [2.0, 2.0]])
    np.testing.assert_allclose(metrics.softmax(odds), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(metrics.sigmoid(odds), [[1 / 2, 3 / 4], [2 / 3, 2 / 3]])


def test_scores_and_losses_survive_huge_logits():
    huge = np.array([[1e4, -1e4]])
    np.testing.assert_array_equal(metrics.softmax(huge), [[1, 0]])
    np.testing.assert_array_equal(metrics.sigmoid(huge), [[1, 0]])
    assert metrics.log_losses(np.array([1]), huge).tolist() == [2e4]


def test_class_metrics_by_hand():
    # Class 0: 3 there, 2 of them found, 4 answered. Class 1: never there, never answered.
    each = metrics.class_metrics(np.array([2, 0]), np.array([3, 0]), np.array([4, 0]))
    assert each.precision[0] == 2 / 4
    assert each.recall[0] == 2 / 3
    assert each.f1[0] == pytest.approx(4 / 7)
    assert np.isnan([each.precision[1], each.recall[1], each.f1[1]]).all()


def test_top_k_gives_equals_to_the_lower_index():
    scores = np.array([[1.0, 1.0, 0.0]])
    assert metrics.in_top_k(np.array([0]), scores, 1).tolist() == [True]
    assert metrics.in_top_k(np.array([1]), scores, 1).tolist() == [False]
    assert metrics.in_top_k(np.array([1]), scores, 2).tolist() == [True]


def test_what_one_class_only_leaves_undefined():
    assert np.isnan(metrics.auc_shares(np.ones(3, bool), np.arange(3.0))).all()
    assert np.isnan(metrics.average_precision(np.zeros(3, bool), np.arange(3.0)))


# ---------------------------------------------------------------------- scikit-learn


@given(seed=seeds, k=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_metrics_agree_with_scikit_learn(predictions, seed, k):
    labels, logits = predictions(seed)
    predicted = logits.argmax(axis=1)
    scores = metrics.softmax(logits)

    matrix = metrics.confusion_matrix(labels, predicted, 4)
    np.testing.assert_array_equal(
        matrix, sklearn_metrics.confusion_matrix(labels, predicted, labels=range(4))
    )
    each = metrics.class_metrics(matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0))
    second = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(4), zero_division=np.nan
    )
    for ours, theirs in zip(each, second, strict=False):
        np.testing.assert_allclose(ours, theirs)
    assert metrics.log_losses(labels, logits).mean() == pytest.approx(
        sklearn_metrics.log_loss(labels, scores, labels=range(4))
    )
    positive = labels == labels[0]
    assert metrics.auc_shares(positive, logits[:, 0]).mean() == pytest.approx(
        sklearn_metrics.roc_auc_score(positive, logits[:, 0])
    )
    assert metrics.average_precision(positive, logits[:, 0]) == pytest.approx(
        sklearn_metrics.average_precision_score(positive, logits[:, 0])
    )
    logits += np.random.default_rng(seed).uniform(0, 0.01, logits.shape)  # the two break ties apart
    assert metrics.in_top_k(labels, logits, k).mean() == pytest.approx(
        sklearn_metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(4))
    )


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_auc_depends_on_ranks_alone(predictions, seed):
    labels, logits = predictions(seed)
    score, positive = logits[:, 0], labels == 0
    area = metrics.auc_shares(positive, score).mean()
    assert area == metrics.auc_shares(positive, np.exp(3 * score)).mean()
    assert area + metrics.auc_shares(positive, -score).mean() == pytest.approx(1.0, nan_ok=True)


def test_an_examples_share_is_its_influence_on_the_area():
    """Weighing one example a little more moves the area by its share less the area."""
    rng = np.random.default_rng(0)
    positive = np.arange(30) < 12
    score = rng.normal(size=30) + positive
    shares, more = metrics.auc_shares(positive, score), 1e-6
    for i in (0, 20):
        weights = 1 + more * (np.arange(30) == i)
        moved = sklearn_metrics.roc_auc_score(positive, score, sample_weight=weights)
        expected = (shares[i] - shares.mean()) / 30
        assert (moved - shares.mean()) / more == pytest.approx(expected, rel=1e-3)
