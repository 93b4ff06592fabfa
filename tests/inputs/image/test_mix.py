from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.inputs.image import mix

IMAGES = np.arange(3 * 8 * 8 * 3, dtype=np.float32).reshape(3, 8, 8, 3)
LABELS = np.eye(3, dtype=np.float32)
WEIGHTS = np.array([1, 2, 4], np.float32)
BATCH = (IMAGES, LABELS, WEIGHTS)


def test_mixup_in_closed_form():
    images, labels, weights = mix.mix_up(BATCH, tf.constant(0.75))
    np.testing.assert_allclose(images, 0.75 * IMAGES + 0.25 * IMAGES[[2, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(labels, [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]])
    np.testing.assert_allclose(weights, [1.75, 1.75, 3.5])


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_pastes_a_rectangle_and_blends_labels_by_its_area(seed):
    images, labels, weights = mix.cut_mix(BATCH, tf.constant(0.6), tf.constant([0, seed]))
    pasted = (images.numpy() == IMAGES[[2, 0, 1]]).all(axis=(0, 3))  # (8, 8)
    np.testing.assert_array_equal(images.numpy()[:, ~pasted], IMAGES[:, ~pasted])
    rows, columns = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
    assert pasted.sum() == len(rows) * len(columns)  # one rectangle
    assert pasted.mean() <= 0.4 + 0.2  # rounding of its sides at 8 pixels
    kept = 1 - pasted.mean()
    np.testing.assert_allclose(np.diag(labels), [kept] * 3, rtol=1e-6)
    np.testing.assert_allclose(labels.numpy().sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(weights[0], kept * 1 + (1 - kept) * 4, rtol=1e-6)


def test_cutmix_takes_the_share_where_the_rectangle_fits():
    images = tf.random.stateless_uniform((2, 100, 100, 3), (0, 0))
    labels = tf.eye(2)
    kept = [
        float(mix.cut_mix((images, labels), tf.constant(0.75), tf.constant([1, s]))[1][0, 0])
        for s in range(40)
    ]
    assert min(kept) == pytest.approx(0.75, abs=0.01)  # whole: half by half the side
    assert max(kept) > 0.8  # cut off at the border


def test_both_methods_take_turns_by_the_seed():
    kinds = set()
    for seed in range(12):
        images, labels, _ = mix.mix_batch(BATCH, tf.constant([7, seed]), mixup=1.0, cutmix=1.0)
        again, _, _ = mix.mix_batch(BATCH, tf.constant([7, seed]), mixup=1.0, cutmix=1.0)
        np.testing.assert_array_equal(images, again)
        whole = np.isin(images.numpy(), IMAGES).all()
        kinds.add("cutmix" if whole else "mixup")
    assert kinds == {"cutmix", "mixup"}


def test_a_method_that_is_off_is_never_taken():
    assert mix.mix_batch(BATCH, tf.constant([0, 0]), mixup=0.0, cutmix=0.0) is BATCH
    for seed in range(8):
        images, _, _ = mix.mix_batch(BATCH, tf.constant([0, seed]), mixup=0.0, cutmix=1.0)
        assert np.isin(images.numpy(), IMAGES).all()


def test_a_batch_of_one_stays_what_it_is():
    one = tuple(part[:1] for part in BATCH)
    mixed = mix.mix_batch(one, tf.constant([0, 1]), mixup=0.4, cutmix=0.0)
    for before, after in zip(one, mixed, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6)


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 0.25 / 1.4)])
def test_the_beta_distribution(alpha, variance):
    @tf.function
    def draw(seeds: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda s: mix.sample_beta(alpha, s), seeds, fn_output_signature=tf.float32)

    draws = draw(tf.stack([tf.zeros(3000, tf.int32), tf.range(3000)], axis=1))
    assert np.mean(draws) == pytest.approx(0.5, abs=0.03)
    assert np.var(draws) == pytest.approx(variance, rel=0.1)
