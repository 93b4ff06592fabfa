"""Linear models on features: against scikit-learn as anyone would call it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from ftkeras.measures.linear import logistic, logistic_each, ridge
from ftkeras.measures.metrics import sigmoid, softmax


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """90 examples of 12 channels, of very different means and scales; the last is constant."""
    random = np.random.default_rng(0)
    drawn = random.normal(size=(90, 12)) * np.geomspace(0.01, 100, 12) + np.arange(12)
    drawn[:, -1] = 7.0
    return drawn


def scaled(features: np.ndarray) -> np.ndarray:
    """Divides by the root of a channel's variance and the mean variance of all."""
    centred = features - features.mean(axis=0)
    variance = (centred**2).mean(axis=0)
    return centred / np.sqrt(variance + variance.mean())


def labels_of(features: np.ndarray, classes: int) -> np.ndarray:
    noisy = (features - features.mean(axis=0))[:, :classes] / np.geomspace(0.01, 100, 12)[:classes]
    return (noisy + np.random.default_rng(1).normal(size=noisy.shape)).argmax(axis=1)


@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logistic_is_that_of_scikit_learn(features, classes, strength):
    labels = labels_of(features, classes)
    own = softmax(logistic(features, labels, classes, strength)(features))
    theirs = LogisticRegression(C=strength, max_iter=1000).fit(scaled(features), labels)
    expected = theirs.predict_proba(scaled(features))
    np.testing.assert_allclose(own, expected, atol=2e-3)


def test_weights_count(features):
    labels = labels_of(features, 3)
    twice = np.concatenate([features, features[labels == 1]])
    more = np.concatenate([labels, labels[labels == 1]])
    weights = np.where(labels == 1, 2.0, 1.0)
    # The scaling differs a little, as the copies count in it.
    one = softmax(logistic(features, labels, 3, 0.1, weights)(features))
    other = softmax(logistic(twice, more, 3, 0.1)(features))
    plain = softmax(logistic(features, labels, 3, 0.1)(features))
    assert np.abs(one - other).max() < np.abs(plain - other).max() / 2


@pytest.mark.parametrize("missing", [0, 2, 3])
def test_a_class_without_examples_is_the_last_choice(features, missing):
    labels = labels_of(features, 3)
    labels = labels + (labels >= missing)  # of four classes one has no example
    logits = logistic(features, labels, 4, 1.0)(features)
    assert logits.argmax(axis=1).tolist().count(missing) == 0
    assert np.isfinite(logits).all()


def test_one_class_alone_and_constant_labels(features):
    logits = logistic(features, np.full(90, 1), 3, 1.0)(features)
    assert (logits.argmax(axis=1) == 1).all()
    hot = np.zeros((90, 3))
    hot[:, 0] = 1
    hot[::2, 2] = 1
    scores = sigmoid(logistic_each(features, hot, 1.0)(features))
    assert (scores[:, 0] > 0.9).all() and (scores[:, 1] < 0.1).all()


def test_labels_are_questions_of_their_own(features):
    hot = np.column_stack([labels_of(features, 2), labels_of(features, 3) == 1]).astype(float)
    own = sigmoid(logistic_each(features, hot, 0.1)(features))
    for column in range(2):
        theirs = LogisticRegression(C=0.1, max_iter=1000).fit(scaled(features), hot[:, column])
        expected = theirs.predict_proba(scaled(features))[:, 1]
        np.testing.assert_allclose(own[:, column], expected, atol=2e-3)


def test_ridge_is_that_of_scikit_learn(features):
    values = (features[:, :3] @ [30.0, 2.0, 1.0])[:, None]
    theirs = Ridge(alpha=10.0).fit(scaled(features), values[:, 0])
    own = ridge(features, values, 0.1)(features)[:, 0]
    np.testing.assert_allclose(own, theirs.predict(scaled(features)), rtol=1e-4)


def test_a_channel_that_hardly_varies_does_not_decide(features):
    """Divided by its own deviation it would be a thousand of them away on the next example."""
    still = np.column_stack([features, 1e-3 * np.random.default_rng(2).normal(size=90)])
    labels = labels_of(features, 3)
    model = logistic(still, labels, 3, 1.0)
    moved = still.copy()
    moved[:, -1] += 1.0
    assert np.abs(model(moved) - model(still)).max() < 0.5
