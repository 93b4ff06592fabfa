"""The range test: what it suggests, and that it leaves no trace."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.phases import Phase, StagedUnfreezing
from ftkeras.training.lr_find import find_learning_rate


def regression() -> tuple[keras.Model, tf.data.Dataset]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 8)).astype("float32")
    targets = inputs @ rng.normal(size=(8, 1)).astype("float32")
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dropout(0.1), keras.layers.Dense(1, name="head")]
    )
    model.compile(keras.optimizers.SGD(0.123, momentum=0.9), "mse", metrics=["mae"])
    return model, tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(16)


def test_everything_is_put_back_to_the_bit():
    model, batches = regression()
    unfreeze = StagedUnfreezing(model, [Phase("head", 1, 1e-6)])
    model.fit(batches, epochs=1, callbacks=[unfreeze], verbose=0, shuffle=False)
    unfreeze.enter(0)
    variables = [*model.variables, *model.optimizer.variables]
    before = [variable.numpy() for variable in variables]
    random.seed(3), np.random.seed(3)
    find_learning_rate(model, batches, low=1e-5, high=1e-2, steps=30)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    draws = random.random(), np.random.random()
    random.seed(3), np.random.seed(3)
    assert draws == (random.random(), np.random.random())


def test_it_stops_where_the_loss_diverges_and_suggests_a_tenth_of_the_best():
    model, batches = regression()
    model.optimizer.build(model.trainable_variables)
    found = find_learning_rate(model, batches, low=1e-4, high=100.0, steps=60)
    assert len(found.rates) < 60
    best = found.rates[int(np.argmin(found.losses))]
    assert found.suggestion == pytest.approx(best / 10)
    assert 1e-3 < best < 1.0
    ratios = np.divide(found.rates[1:], found.rates[:-1])
    np.testing.assert_allclose(ratios, (100 / 1e-4) ** (1 / 59), rtol=1e-6)


def test_what_makes_no_sense_is_refused():
    model, batches = regression()
    with pytest.raises(UserError, match="low must be above 0 and below high"):
        find_learning_rate(model, batches, low=1.0, high=0.1)
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(UserError, match="diverged after"):
        find_learning_rate(model, batches, low=10.0, high=1e6)
