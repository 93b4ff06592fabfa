from __future__ import annotations

import importlib
import json
import zipfile

import keras
import numpy as np
import pytest

from ftkeras.backbones.catalog import CATALOG
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.errors import UserError

KINDS = ("none", "tf", "torch", "caffe")


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 5, 4, 3)).astype("float32")


@pytest.mark.parametrize("name", CATALOG)
def test_agrees_with_the_function_beside_the_builder(name, images):
    """Train/serve skew begins here: compare with the module that each builder lives in."""
    module = getattr(keras.applications, name).__module__.rsplit(".", 1)[1]
    theirs = importlib.import_module(f"keras.applications.{module}").preprocess_input
    ours = preprocess(keras.ops.convert_to_tensor(images), CATALOG[name].family.preprocessing)
    np.testing.assert_allclose(ours, theirs(images.copy()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_model_needs_nothing_but_keras(kind, images, tmp_path):
    inputs = keras.Input((5, 4, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(preprocess(inputs, kind)))
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path, safe_mode=True)
    np.testing.assert_array_equal(loaded(images), model(images))
    config = json.loads(zipfile.ZipFile(path).read("config.json"))
    assert "ftkeras" not in json.dumps(config)


def test_computes_in_float32_under_mixed_precision(images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((5, 4, 3))
        model = keras.Model(inputs, preprocess(inputs, "torch"))
    finally:
        keras.config.set_dtype_policy("float32")
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(model(images), expected, atol=1e-5)


def test_unknown_kind_is_refused(images):
    with pytest.raises(UserError, match="'imagenet' is none of none, tf, torch, caffe"):
        preprocess(images, "imagenet")
