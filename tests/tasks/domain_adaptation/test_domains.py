"""Losses between domains, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.tasks.domain_adaptation.domains import (
    GradientReversal,
    RowLoss,
    TargetDoubt,
    coral,
    is_source,
    pseudo_labels,
    tell_apart,
)

SOURCE = np.array([1, 0, 1, 0, 1, 0, 1], np.float32)


def test_coral_is_the_distance_of_numpys_covariances():
    logits = np.random.default_rng(0).normal(3, 2, (7, 3)).astype(np.float32)
    one, two = (np.cov(logits[domain == SOURCE], rowvar=False) for domain in (1, 0))
    expected = ((one - two) ** 2).sum() / (4 * 9)
    np.testing.assert_allclose(
        coral(tf.constant(SOURCE), tf.constant(logits)), [expected] * 7, 1e-4
    )
    assert float(RowLoss(coral)(SOURCE, logits)) == pytest.approx(expected, rel=1e-4)


def test_pseudo_labels_take_sure_answers_about_the_target():
    logits = np.log(np.array([[0.95, 0.05], [0.92, 0.08], [0.6, 0.4], [0.1, 0.9]], np.float32))
    source = tf.constant([1.0, 0.0, 0.0, 0.0])
    found = pseudo_labels(source, tf.constant(logits), 0.85)
    np.testing.assert_allclose(found, [0, -2 * np.log(0.92), 0, -2 * np.log(0.9)], rtol=1e-4)


def test_domains_are_told_apart_by_cross_entropy():
    found = tell_apart(tf.constant([1.0, 0.0]), tf.constant([[2.0], [2.0]]))
    np.testing.assert_allclose(found, [np.log1p(np.exp(-2)), 2 + np.log1p(np.exp(-2))], rtol=1e-5)


def test_gradients_come_back_turned_round():
    strength = tf.Variable(0.25)
    layer, values = GradientReversal(strength), tf.Variable([1.0, -2.0])
    with tf.GradientTape() as tape:
        out = layer(values)
        loss = tf.reduce_sum(out * [3.0, 5.0])
    np.testing.assert_array_equal(out, values)
    np.testing.assert_allclose(tape.gradient(loss, values), [-0.75, -1.25])


def test_labels_tell_the_domain():
    labels = tf.constant([[0.0, 1.0], [0.0, 0.0], [0.4, 0.6]])
    assert is_source(labels).numpy().tolist() == [1.0, 0.0, 1.0]


def test_doubt_is_least_where_answers_are_sure_and_differ():
    def doubt(shares: list[list[float]]) -> float:
        metric = TargetDoubt(2)
        for row in shares:
            metric.update_state(tf.constant([0.0, 1.0]), tf.math.log([row, [0.5, 0.5]]))
        return float(metric.result())

    assert doubt([[1 - 1e-7, 1e-7], [1e-7, 1 - 1e-7]]) == pytest.approx(-np.log(2), abs=1e-4)
    assert doubt([[1 - 1e-7, 1e-7]] * 2) == pytest.approx(0, abs=1e-4)
    assert doubt([[0.5, 0.5]] * 2) == pytest.approx(0, abs=1e-6)
    assert -np.log(2) < doubt([[0.9, 0.1], [0.1, 0.9]]) < -0.3
    assert float(TargetDoubt(2).result()) == 0
