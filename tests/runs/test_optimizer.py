"""The optimizer of a run: every name, and what weight decay leaves out."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.config.schema import OptimizerConfig
from ftkeras.phases import weights_of
from ftkeras.runs.optimizer import OPTIMIZERS, make_optimizer


def model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, bias_initializer="ones", name="dense"),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.Dense(2, bias_initializer="ones", name="out"),
        ]
    )


def made(net: keras.Model, rate: float, **settings) -> keras.optimizers.Optimizer:
    return make_optimizer(OptimizerConfig(**settings), weights_of(net), learning_rate=rate)


def test_the_schema_offers_exactly_these():
    names = OptimizerConfig.model_json_schema()["properties"]["name"]["enum"]
    assert sorted(names) == sorted(OPTIMIZERS)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_weight_decay_shrinks_kernels_and_spares_biases_and_normalisation(name):
    net = model()
    optimizer = made(net, 0.1, name=name, weight_decay=0.5)
    before = {v.path: v.numpy() for v in net.trainable_variables}
    optimizer.apply(
        [keras.ops.zeros_like(v) for v in net.trainable_variables], net.trainable_variables
    )
    for variable in net.trainable_variables:
        if variable.name == "kernel":
            np.testing.assert_allclose(variable.numpy(), before[variable.path] * 0.95, rtol=1e-5)
        else:
            np.testing.assert_array_equal(variable.numpy(), before[variable.path])


def test_gradients_are_clipped_to_a_global_norm():
    net = model()
    optimizer = made(net, 1.0, name="sgd", weight_decay=0.0, momentum=0.0, clip_norm=1.0)
    before = [v.numpy() for v in net.trainable_variables]
    optimizer.apply(
        [keras.ops.ones_like(v) * 9 for v in net.trainable_variables], net.trainable_variables
    )
    moved = [v.numpy() - b for v, b in zip(net.trainable_variables, before, strict=True)]
    assert np.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(1.0, rel=1e-5)


def test_accumulation_updates_every_nth_step():
    net = model()
    optimizer = made(net, 1.0, name="sgd", weight_decay=0.0, momentum=0.0, accumulate=2)
    kernel = net.get_layer("out").kernel
    before = kernel.numpy()
    for expected in (0.0, -1.0, -1.0, -2.0):
        optimizer.apply(
            [keras.ops.ones_like(v) for v in net.trainable_variables], net.trainable_variables
        )
        np.testing.assert_allclose(kernel.numpy() - before, expected, atol=1e-6)


def test_adamw_may_decay_nothing():
    optimizer = made(model(), 0.1, name="adamw", weight_decay=0.0)
    assert optimizer.weight_decay == 0.0
