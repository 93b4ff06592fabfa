"""What a person calls a model decides nothing about it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import ftkeras

OWN_NAMES = {
    "vgg16_small": "caffe",
    "resnet50_mine": "caffe",
    "densenet121-lite": "torch",
    "mobilenet": "tf",
}


@pytest.mark.xfail(
    strict=True, reason="case 9: the name decides the preprocessing", raises=AssertionError
)
@pytest.mark.parametrize("name", OWN_NAMES)
def test_a_model_of_ones_own_gets_no_preprocessing_because_of_its_name(name, tmp_path):
    """keras 9668."""
    layers = [keras.layers.Conv2D(4, 3, name="one"), keras.layers.Conv2D(4, 3, name="two")]
    own = keras.Sequential([keras.Input((16, 16, 3)), *layers], name=name)
    own.save(tmp_path / "own.keras")
    backbone = ftkeras.load_backbone(str(tmp_path / "own.keras"))
    images = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(backbone.model(images), own(images), rtol=1e-5)
    assert backbone.preprocessing == "none"
