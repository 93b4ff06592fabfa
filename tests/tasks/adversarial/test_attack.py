"""Attacks against losses whose worst change is known."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.tasks.adversarial.attack import Attack

WEIGHTS = np.array([[[3.0, -1.0, 0.5], [-2.0, 4.0, -0.25]]], np.float32)  # (1, 2, 3)


def linear(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(images * WEIGHTS, axis=(1, 2, 3))


def flat(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(images * 0.0, axis=(1, 2, 3))


def pictures(count: int = 3, low: float = 100.0, high: float = 150.0) -> tf.Tensor:
    random = np.random.default_rng(0)
    return tf.constant(random.uniform(low, high, (count, 1, 2, 3)), tf.float32)


@pytest.mark.parametrize("random_start", [False, True])
def test_of_a_linear_loss_the_worst_change_is_found(random_start):
    images = pictures()
    found = Attack("linf", 4.0, 8, 2.0, random_start)(linear, images, 0)
    np.testing.assert_allclose(found, images + 4.0 * np.sign(WEIGHTS), rtol=1e-6)
    found = Attack("l2", 4.0, 40, 1.0, random_start)(linear, images, 0)
    worst = images + 4.0 * WEIGHTS / np.linalg.norm(WEIGHTS)
    np.testing.assert_allclose(found, worst, atol=0.01)


def test_one_step_from_the_image_itself_is_the_fast_gradient_sign():
    images = pictures()
    found = Attack("linf", 4.0, 1, 3.0, random_start=False)(linear, images, 0)
    np.testing.assert_allclose(found, images + 3.0 * np.sign(WEIGHTS), rtol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_leaves_the_budget_or_what_pixels_can_be(norm):
    images = tf.concat([pictures(8, 0.0, 2.0), pictures(8, 253.0, 255.0)], 0)
    found = Attack(norm, 4.0, 5, 3.0)(linear, images, 1).numpy()
    changes = (found - images.numpy()).reshape(16, -1)
    lengths = np.linalg.norm(changes, ord=np.inf if norm == "linf" else 2, axis=1)
    assert lengths.max() <= 4.0 + 1e-4
    assert found.min() >= 0.0
    assert found.max() <= 255.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_follows_from_the_seed_and_the_image_alone(norm):
    images, attack = pictures(4), Attack(norm, 4.0, 1, 1.0)
    starts = attack(flat, images, 7).numpy() - images.numpy()
    assert np.abs(starts).max() > 0.5
    alone = attack(flat, images[2:3], 7).numpy() - images[2:3].numpy()
    np.testing.assert_array_equal(alone[0], starts[2])
    assert not np.allclose(starts[0], starts[1])
    assert not np.allclose(attack(flat, images, 8) - images, starts)


def test_a_start_fills_the_budget():
    images = tf.random.stateless_uniform((1, 40, 40, 3), (1, 2), 50.0, 200.0)
    start = (Attack("linf", 4.0, 1, 1.0)(flat, images, 0) - images).numpy()
    assert np.histogram(start, 4, (-4, 4))[0] == pytest.approx(np.full(4, 1200), rel=0.1)


def test_half_precision_loses_no_direction():
    images = pictures()

    def tiny(changed: tf.Tensor) -> tf.Tensor:
        half = tf.cast(changed, tf.float16) * tf.cast(WEIGHTS * 1e-3, tf.float16)
        return tf.reduce_sum(tf.cast(half, tf.float32) * 2e-5, axis=(1, 2, 3))

    found = Attack("linf", 4.0, 4, 2.0)(tiny, images, 0)
    np.testing.assert_allclose(found, images + 4.0 * np.sign(WEIGHTS), rtol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_a_share_nothing_goes_further(norm):
    images = pictures(4)
    whole, half = Attack(norm, 4.0, 5, 3.0), Attack(norm, 2.0, 5, 1.5)
    np.testing.assert_array_equal(whole(linear, images, 1, 0.5), half(linear, images, 1))
