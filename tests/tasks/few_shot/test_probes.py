"""Linear heads: hand-made expectations, and scikit-learn as a second opinion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from ftkeras.measures.bootstrap import mean_interval
from ftkeras.measures.metrics import log_losses
from ftkeras.tasks.few_shot.probes import (
    METHODS,
    cosine_head,
    draw,
    fit_head,
    nearest_mean,
    penalised,
    stratified_folds,
)


def clouds(count: int, channels: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping clouds of unit vectors."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = np.eye(3, channels)[labels] + random.normal(0, 0.5, (count, channels))
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def test_the_nearest_mean_is_the_nearest_by_distance():
    features = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0]])
    head = nearest_mean(features, np.array([0, 0, 1]), 2)  # means (1, 0) and (10, 0)
    points = np.array([[5.4, 3.0], [5.6, -3.0]])
    assert head(points).argmax(axis=1).tolist() == [0, 1]
    distances = ((points[:, None] - [[1.0, 0.0], [10.0, 0.0]]) ** 2).sum(axis=2)
    logits = head(points)
    assert np.diff(logits, axis=1) == pytest.approx(-np.diff(distances, axis=1))


@pytest.mark.parametrize("penalty", [0.03, 1.0])
@pytest.mark.parametrize(("count", "channels"), [(9, 40), (60, 12)])  # fewer and more than channels
def test_logistic_regression_agrees_with_scikit_learn(penalty, count, channels):
    features, labels = clouds(count, channels)
    head = penalised(features, labels, 3, penalty)
    other = LogisticRegression(C=1 / penalty, max_iter=10_000, tol=1e-8).fit(features, labels)
    points, _ = clouds(20, channels, seed=1)
    ours, theirs = head(points), other.decision_function(points)
    difference = (ours - ours.mean(1, keepdims=True)) - (theirs - theirs.mean(1, keepdims=True))
    assert np.abs(difference).max() < 0.01


def test_a_cosine_head_gives_scaled_cosines_and_learns():
    features, labels = clouds(30)
    head = cosine_head(3.0 * features, labels, 3)  # of any one length
    lengths = np.linalg.norm(head.kernel, axis=0)
    assert lengths == pytest.approx(np.full(3, lengths[0]))
    assert not head.bias.any()
    prototypes = np.stack([features[labels == c].mean(axis=0) for c in range(3)])
    first = 10 * features @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
    learned = log_losses(labels, head(3.0 * features)).mean()
    assert learned < log_losses(labels, first).mean()


def test_folds_leave_each_example_out_once_and_spread_the_classes():
    labels = np.repeat([0, 1, 2], [4, 4, 5])
    folds = list(stratified_folds(labels, 4, seed=3))
    assert sorted(np.concatenate([left_out for _, left_out in folds])) == list(range(13))
    for kept, left_out in folds:
        assert not set(kept) & set(left_out)
        assert set(labels[kept]) == {0, 1, 2}
        counts = np.bincount(labels[left_out], minlength=3)
        assert counts[:2].tolist() == [1, 1]
        assert counts[2] in (1, 2)


def test_held_out_logits_never_saw_the_examples_own_label():
    features, labels = clouds(30)
    folds = list(stratified_folds(labels, 5, seed=0))
    _, before = fit_head("nearest_mean", features, labels, 3, folds)
    changed = labels.copy()
    changed[folds[0][1]] = (changed[folds[0][1]] + 1) % 3
    _, after = fit_head("nearest_mean", features, changed, 3, folds)
    assert before is not None
    assert after is not None
    assert np.array_equal(before[folds[0][1]], after[folds[0][1]])
    assert not np.array_equal(before[folds[1][1]], after[folds[1][1]])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_beats_chance_on_examples_it_has_not_seen(method):
    features, labels = clouds(30)
    folds = list(stratified_folds(labels, 5, seed=0))
    head, held_out = fit_head(method, features, labels, 3, folds)
    points, truth = clouds(60, seed=1)
    assert (head(points).argmax(axis=1) == truth).mean() > 0.6
    assert held_out is not None
    assert (held_out.argmax(axis=1) == labels).mean() > 0.6
    assert fit_head(method, features[:3], labels[:3], 3, [])[1] is None


def test_draws_follow_from_the_seed():
    labels = np.repeat([0, 1], [10, 20])
    first = draw(labels, 4, seed=1)
    assert np.bincount(labels[first]).tolist() == [4, 4]
    assert np.array_equal(first, draw(labels, 4, seed=1))
    assert not np.array_equal(first, draw(labels, 4, seed=1, turn=1))
    assert not np.array_equal(first, draw(labels, 4, seed=2))


@pytest.mark.parametrize("count", [3, 6, 20])
def test_the_interval_of_a_mean_is_students(count):
    values = np.random.default_rng(0).normal(size=count)
    low, high = mean_interval(list(values))
    expected = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert [low, high] == pytest.approx(expected, abs=0.01 * (high - low))
    assert mean_interval([0.5]) is None
