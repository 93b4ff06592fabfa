"""Staged unfreezing on two replicas: the same weights as on one."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.phases import Phase
from ftkeras.training.resume.phases import ResumableUnfreezing

INPUTS = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
LABELS = keras.utils.to_categorical(np.arange(32) % 2, 2)
PHASES = [
    Phase("head", 1, 1e-2, decay="constant"),
    Phase("top", 1, train=["head", "blocks[-1]"], layer_decay=0.5),
    Phase("all", 1, train=["all"]),
]


def trained(strategy: tf.distribute.Strategy) -> tuple[list[np.ndarray], dict[str, float]]:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(5, activation="tanh", name="a"),
                keras.layers.Dense(5, activation="tanh", name="b"),
                keras.layers.Dense(2, name="head"),
            ]
        )
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.AdamW(weight_decay=0.1)
        model.compile(optimizer, loss, jit_compile=False)
    unfreeze = ResumableUnfreezing(model, PHASES)
    batches = tf.data.Dataset.from_tensor_slices((INPUTS, LABELS)).batch(8)
    model.fit(batches, epochs=unfreeze.epochs, callbacks=[unfreeze], verbose=0, shuffle=False)
    assert set(unfreeze.verdicts) == {"head", "top", "all"}
    return model.get_weights(), unfreeze.optimizer.gradient_norms()


@pytest.mark.slow
def test_two_replicas_give_the_weights_of_one(two_replicas):
    one, norms_of_one = trained(tf.distribute.get_strategy())
    two, norms_of_two = trained(two_replicas)
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)
    assert set(norms_of_one) == {"a", "b", "head"}
    assert norms_of_two == pytest.approx(norms_of_one, rel=1e-3)
