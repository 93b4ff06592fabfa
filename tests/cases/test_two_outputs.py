"""The head of a model with several outputs is all of them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import ftkeras

INPUTS = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


def two_outputs(kind: str) -> keras.Model:
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, "relu", name="trunk")(inputs)
    first = keras.layers.Dense(2, name="first")(x)
    second = keras.layers.Dense(3, name="second")(x)
    outputs = {"first": first, "second": second} if kind == "dict" else [first, second]
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_the_head_of_two_outputs_is_both_or_an_error(kind):
    """keras 11607."""
    model = two_outputs(kind)
    targets = [np.ones((16, 2), "float32"), np.ones((16, 3), "float32")]
    names = ["first", "second"]
    if kind == "dict":
        targets = dict(zip(names, targets, strict=True))
    losses = dict.fromkeys(names, "mse") if kind == "dict" else ["mse", "mse"]
    model.compile("adam", losses, jit_compile=False)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    phase = ftkeras.Phase("head", epochs=1, learning_rate=1e-2, train=["head"])
    try:
        unfreeze = ftkeras.StagedUnfreezing(model, [phase])
    except ftkeras.UserError:
        return
    model.fit(INPUTS, targets, batch_size=8, epochs=1, callbacks=[unfreeze], verbose=0)
    moved = [
        layer.name
        for layer in model.layers
        if not all(map(np.array_equal, before[layer.name], layer.get_weights()))
    ]
    assert sorted(moved) == names
