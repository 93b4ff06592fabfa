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


def classification(noise: float, optimizer: str = "adam") -> tuple[keras.Model, tf.data.Dataset]:
    """Two classes, told apart by one of 16 numbers, as far as noise allows."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(512, 16)).astype("float32")
    labels = (inputs[:, 0] + noise * rng.normal(size=512) > 0).astype("int32")
    keras.utils.set_random_seed(1)
    last = keras.layers.Dense(2, kernel_initializer="zeros")  # the loss begins at that of guesses
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(32, "relu"), last])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    return model, tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(32)


def test_it_stops_where_the_loss_diverges_and_suggests_a_tenth_of_the_best():
    found = find_learning_rate(*classification(0.5), low=1e-6, high=10.0, steps=100)
    assert len(found.rates) == len(found.losses) < 100
    best = found.rates[int(np.argmin(found.losses))]
    assert found.suggestion == pytest.approx(best / 10, rel=0.6)
    assert 1e-3 < found.suggestion < 1e-1 and not found.reason
    ratios = np.divide(found.rates[1:], found.rates[:-1])
    np.testing.assert_allclose(ratios, (10 / 1e-6) ** (1 / 99), rtol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "noise", "given"), [("adam", 0.5, 2), ("adam", 1.0, 1), ("sgd", 0.5, 0)]
)
def test_the_suggestion_does_not_follow_from_the_steps(optimizer, noise, given):
    found = [
        find_learning_rate(*classification(noise, optimizer), low=1e-6, high=10.0, steps=steps)
        for steps in (60, 100)
    ]
    rates = [test.suggestion for test in found if test.suggestion is not None]
    assert len(rates) >= given and all(test.suggestion or test.reason for test in found)
    assert not rates or max(rates) <= 2 * min(rates)


@pytest.mark.parametrize(
    ("noise", "steps", "high", "reason"),
    [
        (0.5, 30, 10.0, "too few steps for these rates: 57 or more are needed"),
        (1e9, 100, 1.0, "the loss does not fall by more than it differs between batches"),
        (0.5, 100, 0.1, "the loss is still falling at the last rate, 0.1"),
    ],
)
def test_a_curve_that_supports_no_rate_gives_none(noise, steps, high, reason):
    found = find_learning_rate(*classification(noise, "sgd"), low=1e-6, high=high, steps=steps)
    assert (found.suggestion, found.reason) == (None, reason)


def test_what_makes_no_sense_is_refused():
    model, batches = regression()
    with pytest.raises(UserError, match="low must be above 0 and below high"):
        find_learning_rate(model, batches, low=1.0, high=0.1)
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(UserError, match=r"diverged after \d+ steps?; start lower than 10"):
        find_learning_rate(model, batches, low=10.0, high=1e6)
