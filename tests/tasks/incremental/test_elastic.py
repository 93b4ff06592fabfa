"""Elastic weight consolidation against the closed form of a softmax regression."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.phases import weights_of
from ftkeras.tasks.incremental.elastic import ElasticWeights, diagonal_fisher
from ftkeras.tasks.incremental.grow import EqualLengths
from ftkeras.training.regularization import WeightPenalty


def regression(classes: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(classes, name="logits", bias_initializer="glorot_normal")
    return keras.Sequential([keras.Input((1, 1, 2)), keras.layers.Flatten(), dense])


def test_the_fisher_information_of_a_softmax_regression():
    model = regression(3)
    images = np.random.default_rng(0).normal(size=(6, 1, 1, 2)).astype(np.float32)
    kernel, bias = diagonal_fisher(model, images, model.trainable_variables, classes=2)
    x = images[:, 0, 0]  # (6, 2)
    z = model.predict(images, verbose=0)[:, :2]  # of the old classes alone
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    spread = p * (1 - p)  # (6, 2)
    np.testing.assert_allclose(kernel[:, :2], (x**2).T @ spread / 6, rtol=1e-4)
    np.testing.assert_allclose(bias[:2], spread.mean(axis=0), rtol=1e-4)
    assert not kernel[:, 2].any() and not bias[2]


def test_important_weights_are_pulled_back_and_others_go_free():
    model = regression(2)
    model.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    kernel = model.get_layer("logits").kernel
    start = kernel.numpy()
    WeightPenalty(weights_of(model).all, l2=0.5)  # what is there stays
    fisher = [np.array([[1.0, 0.0], [2.0, 0.0]], np.float32), np.zeros(2, np.float32)]
    elastic = ElasticWeights(model.trainable_variables, fisher, strength=3.0)
    kernel.assign(start + 1)
    nothing = {"sample_weight": np.zeros(4), "verbose": 0, "callbacks": [elastic]}
    history = model.fit(np.ones((4, 1, 1, 2)), np.zeros((4, 2)), **nothing)
    moved = 0.1 * (3.0 * fisher[0] * 1.0 + 2 * 0.5 * (start + 1))
    np.testing.assert_allclose(kernel.numpy(), start + 1 - moved, rtol=1e-5)
    wanted = 1.5 * 3.0 + 0.5 * ((start + 1) ** 2).sum()
    assert history.history["loss"][0] == pytest.approx(wanted, rel=1e-5)


def test_columns_keep_their_proportions_and_share_one_scale():
    layer = keras.layers.Dense(2)
    layer.build((None, 2))
    layer.set_weights([np.array([[3.0, 0.0], [0.0, 6.0]]), np.array([0.5, 0.0])])
    held = EqualLengths(layer)
    layer.set_weights([np.array([[3.0, 8.0], [4.0, 6.0]]), np.array([9.0, 9.0])])
    held.on_train_batch_end(0)
    kernel, bias = layer.get_weights()
    scale = (5 / 3 + 10 / 6) / 2
    np.testing.assert_allclose(kernel, scale * np.array([[1.8, 4.8], [2.4, 3.6]]), rtol=1e-6)
    np.testing.assert_array_equal(bias, [0.5, 0.0])
