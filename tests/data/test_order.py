from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkeras.data import order
from ftkeras.data.dataset import Split


def split_of(labels: np.ndarray, classes: int, weights: np.ndarray | None = None) -> Split:
    ids = [str(i) for i in range(len(labels))]
    return Split("train", ids, labels, classes, lambda index: index, weights)


def epoch_of(index: order.IndexOf, epoch: int, count: int) -> list[int]:
    places = tf.range(count, dtype=tf.int64)
    one = tf.function(lambda place: index(place, tf.constant(epoch, tf.int64)))
    return [int(one(place)) for place in places]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_every_epoch_is_a_permutation(count, seed, epoch):
    assert sorted(epoch_of(order.shuffled(count, seed), epoch, count)) == list(range(count))


def test_epochs_and_seeds_differ_and_repeat():
    one = epoch_of(order.shuffled(50, 1), 0, 50)
    assert one == epoch_of(order.shuffled(50, 1), 0, 50)
    others = [epoch_of(order.shuffled(50, 1), 1, 50), epoch_of(order.shuffled(50, 2), 0, 50)]
    assert one not in others and others[0] != others[1]


def test_balanced_draws_each_class_equally_often():
    labels = np.array([0] * 54 + [1] * 3 + [2] * 3, np.int32)
    drawn = epoch_of(order.balanced(split_of(labels, 3), 0), 0, 60)
    assert np.bincount(labels[drawn]).tolist() == [20, 20, 20]
    # Nothing again before all have come: 20 draws from 3 give each 6 or 7 times.
    assert sorted(np.bincount(drawn)[54:57].tolist()) == [6, 7, 7]


def test_balanced_goes_through_a_large_class_across_epochs():
    labels = np.array([0] * 50 + [1] * 10, np.int32)
    index = order.balanced(split_of(labels, 2), 0)
    drawn = [i for epoch in range(2) for i in epoch_of(index, epoch, 60) if i < 50]
    assert len(drawn) == 60 and len(set(drawn)) == 50


def test_balanced_draws_each_of_several_labels():
    hot = np.zeros((12, 2), np.float32)
    hot[:8, 0] = 1
    hot[8:10, 1] = 1  # and two examples without any label
    drawn = np.array(epoch_of(order.balanced(split_of(hot, 2), 0), 0, 12))
    assert [(drawn < 8).sum(), ((drawn >= 8) & (drawn < 10)).sum(), (drawn >= 10).sum()] == [
        4,
        4,
        4,
    ]


def test_class_weights_are_inverse_frequencies_of_mean_one():
    labels = np.array([0, 0, 0, 1], np.int32)
    weights = order.example_weights(split_of(labels, 2), "class_weights")
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2])


def test_class_weights_multiply_the_examples_own():
    own = np.array([1, 1, 4, 0.5], np.float32)
    split = split_of(np.array([0, 0, 0, 1], np.int32), 2, own)
    weights = order.example_weights(split, "class_weights")
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 8 / 3, 1])
    assert order.example_weights(split, "none") is own


def test_class_weights_of_several_labels_are_their_mean():
    hot = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    # Inverse frequencies 1/3 and 1: means 1/3, 1/3, 2/3, and the mean of these for no label.
    weights = order.example_weights(split_of(hot, 2), "class_weights")
    np.testing.assert_allclose(weights, np.array([3, 3, 6, 4]) / 4)


def test_without_balance_there_are_no_weights():
    assert order.example_weights(split_of(np.array([0, 1], np.int32), 2), "sampling") is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tiny_sets(count):
    assert sorted(epoch_of(order.shuffled(count, 0), 0, count)) == list(range(count))


def test_class_indices_stay_small():
    """Two million examples of ten thousand classes: one-hot they would take 80 GB."""
    labels = (np.arange(2_000_000) % 10_000).astype(np.int32)
    split = Split("train", range(2_000_000), labels, 10_000, lambda index: index)
    assert (split.counts == 200).all()
    index = order.balanced(split, 0)(tf.constant(7, tf.int64), tf.constant(0, tf.int64))
    target = split.make_target()(index)
    assert int(tf.argmax(target)) == labels[int(index)] and float(tf.reduce_sum(target)) == 1.0
    weights = order.example_weights(split, "class_weights")
    assert weights is not None and np.allclose(weights, 1.0)
