"""Weights go where their names say, whatever was frozen when the file was written."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import ftkeras

FIVE = [f"conv_{i}" for i in range(5)]


def five_alike(seed: int) -> tuple[keras.Model, keras.Model]:
    """Returns a model with five convolutions of equal shape in a nested base, and that base."""
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((16, 16, 8))
    for name in FIVE:
        x = keras.layers.Conv2D(8, 3, bias_initializer="normal", name=name)(x)
    base = keras.Model(inputs, x, name="base")
    images = keras.Input((16, 16, 3), name="image")
    first = keras.layers.Conv2D(8, 1, name="first")(images)
    return keras.Model(images, base(first)), base


def different(right: keras.Model, loaded: keras.Model) -> list[str]:
    """Returns the names of the layers of `right` that have other weights in `loaded`."""
    pairs = [(layer, loaded.get_layer(layer.name)) for layer in right.layers if layer.weights]
    return [
        one.name
        for one, other in pairs
        if not all(map(np.array_equal, one.get_weights(), other.get_weights()))
    ]


@pytest.mark.parametrize("frozen", [[1, 2], [0, 1], [0, 3]], ids=str)
def test_weights_of_equal_shape_go_where_their_names_say(frozen, tmp_path: Path):
    """keras 6607."""
    trained, base = five_alike(seed=1)
    for i in frozen:
        base.get_layer(FIVE[i]).trainable = False
    trained.save(tmp_path / "trained.h5")
    five_alike(seed=2)[0].save(tmp_path / "network.keras")
    network, weights = str(tmp_path / "network.keras"), str(tmp_path / "trained.h5")
    assert different(base, ftkeras.load_backbone(network, weights=weights).model) == []


@pytest.fixture(scope="module")
def mobilenet() -> tuple[keras.Model, keras.Model]:
    """A model with MobileNetV2 nested in it, all its numbers different, and MobileNetV2 itself."""
    options = {"include_top": False, "weights": None, "input_shape": (32, 32, 3)}
    base = keras.applications.MobileNetV2(**options)
    random = np.random.default_rng(0)
    base.set_weights([random.uniform(0.1, 1.0, v.shape) for v in base.weights])
    images = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(base(images))
    return keras.Model(images, keras.layers.Dense(2)(x)), base


@pytest.mark.parametrize("frozen", ["nothing", "first half", "norms", "everything"])
def test_a_nested_mobilenet_loads_in_each_state_of_freezing(frozen, mobilenet, tmp_path: Path):
    """keras-cv 1990."""
    model, base = mobilenet
    half = len(base.layers) // 2
    for i, layer in enumerate(base.layers):
        norm = isinstance(layer, keras.layers.BatchNormalization)
        states = {"nothing": False, "first half": i < half, "norms": norm, "everything": True}
        layer.trainable = not states[frozen]
    path = str(tmp_path / "trained.h5")
    model.save(path)
    loaded = ftkeras.load_backbone("MobileNetV2", weights=path, image_size=32).model
    assert different(base, loaded) == []
