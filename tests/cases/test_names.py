"""What a person calls a model decides nothing about it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.backbones import CATALOG

OWN_NAMES = {
    "vgg16_small": "caffe",
    "resnet50_mine": "caffe",
    "densenet121-lite": "torch",
    "mobilenet": "tf",
}


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


@pytest.mark.parametrize("name", ["VGG16", "MobileNetV2", "ResNet50V2"])
@pytest.mark.parametrize("nested", [False, True])
def test_an_application_is_known_by_its_layers(name, nested, tmp_path):
    """Whatever it is called; also if it has fewer channels than the catalog's."""
    options = {"alpha": 0.35} if name == "MobileNetV2" else {}
    application = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(64, 64, 3), name="my_network", **options
    )
    if nested:
        outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(application.output))
        application = keras.Model(application.input, outputs, name="another_name")
    application.save(tmp_path / "own.keras")
    backbone = ftkeras.load_backbone(str(tmp_path / "own.keras"))
    expected = CATALOG[name]
    assert backbone.preprocessing == expected.family.preprocessing
    assert len(backbone.blocks) == expected.blocks
