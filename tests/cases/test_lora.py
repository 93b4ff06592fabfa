"""A variable that its owner has frozen stays frozen, whatever phase selects its layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import ftkeras

INPUTS = np.arange(24).reshape(12, 2) % 5
LABELS = np.arange(12) % 3


def token_model() -> keras.Model:
    """Returns a model with one block, `tokens`, and a head of two layers."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Embedding(5, 8, name="tokens"),
        keras.layers.Flatten(),
        keras.layers.Dense(32, "relu", name="wide"),
        keras.layers.Dense(3, name="logits"),
    ]
    model = keras.Sequential([keras.Input((2,), dtype="int32"), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, jit_compile=False)
    return model


def train(model: keras.Model, *selectors: str) -> ftkeras.StagedUnfreezing:
    blocks = [ftkeras.Block("tokens", (model.get_layer("tokens"),))]
    phase = ftkeras.Phase("only", epochs=2, learning_rate=1e-2, train=selectors)
    unfreeze = ftkeras.StagedUnfreezing(model, [phase], blocks=blocks)
    model.fit(INPUTS, LABELS, batch_size=4, epochs=2, callbacks=[unfreeze], verbose=0)
    return unfreeze


def factors(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [variable for variable in layer.variables if "lora" in variable.name]


@pytest.mark.parametrize(("name", "selector"), [("wide", "head"), ("tokens", "block:tokens")])
def test_of_a_layer_with_lora_only_the_factors_train(name, selector):
    """keras-hub 1656."""
    model = token_model()
    layer = model.get_layer(name)
    base = next(v for v in layer.variables if v.name in ("kernel", "embeddings"))
    layer.enable_lora(4)
    before, start = base.numpy(), [factor.numpy() for factor in factors(layer)]
    train(model, selector)
    np.testing.assert_array_equal(base.numpy(), before)
    assert len(start) == 2
    for factor, was in zip(factors(layer), start, strict=True):
        assert not np.array_equal(factor.numpy(), was)


def test_a_variable_frozen_by_its_own_flag_stays_and_is_audited():
    """keras-hub 1656: `enable_lora` is one that sets such a flag."""
    model = token_model()
    layer = model.get_layer("logits")
    layer.kernel.trainable = False
    before = layer.kernel.numpy(), layer.bias.numpy()
    unfreeze = train(model, "head")
    np.testing.assert_array_equal(layer.kernel.numpy(), before[0])
    assert not np.array_equal(layer.bias.numpy(), before[1])
    assert unfreeze.verdicts["only"].frozen == 2  # the embedding and this kernel
