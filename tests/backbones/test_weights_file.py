from __future__ import annotations

import h5py
import keras
import numpy as np
import pytest

from ftkeras.backbones import load_backbone
from ftkeras.errors import UserError

_FORMATS = ("new.weights.h5", "whole.h5", "legacy.h5", "model.keras")


def _save(model, folder, name):
    path = folder / name
    if name == "new.weights.h5":
        model.save_weights(path)
    elif name == "legacy.h5":  # what `save_weights` wrote before Keras 3: a whole model's subgroup
        model.save(folder / "whole.h5")
        with h5py.File(folder / "whole.h5") as whole, h5py.File(path, "w") as file:
            weights = whole["model_weights"]
            for child in weights:
                weights.copy(child, file)
            for key, value in weights.attrs.items():
                file.attrs[key] = value
    else:
        model.save(path)
    return str(path)


def _mobilenet(**kwargs):
    return keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), **kwargs)


@pytest.fixture(scope="module", params=[False, True], ids=["no top", "top"])
def source(request):
    return _mobilenet(include_top=request.param, classes=5)


@pytest.fixture(scope="module")
def narrow():
    return _mobilenet(include_top=False, alpha=0.5)


@pytest.mark.parametrize("name", _FORMATS)
def test_each_format_fits_with_and_without_a_classifier(name, source, tmp_path):
    path = _save(source, tmp_path, name)
    loaded = load_backbone("MobileNet", weights=path, image_size=32).model
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3))
    features = keras.Model(source.input, source.get_layer("conv_pw_13_relu").output)
    expected = features(images)
    np.testing.assert_allclose(loaded(images), expected, rtol=1e-6)
    assert np.ptp(expected) > 0


@pytest.mark.parametrize("name", _FORMATS)
def test_another_architecture_does_not_fit(name, narrow, tmp_path):
    path = _save(narrow, tmp_path, name)
    with pytest.raises(UserError, match=rf"{name} does not fit MobileNet: .*conv1") as caught:
        load_backbone("MobileNet", weights=path, image_size=32)
    assert "\n" not in str(caught.value)


def test_a_shallower_model_does_not_fit(tmp_path):
    source = _mobilenet(include_top=False)
    path = _save(
        keras.Model(source.input, source.get_layer("conv_pw_5_relu").output), tmp_path, "whole.h5"
    )
    with pytest.raises(UserError, match="it holds 55 arrays and 135 are needed"):
        load_backbone("MobileNet", weights=path, image_size=32)


@pytest.mark.parametrize("name", ["text.h5", "text.weights.h5", "text.keras", "text.npz"])
def test_not_a_weights_file(name, tmp_path):
    path = tmp_path / name
    path.write_text("hello")
    with pytest.raises(UserError, match=rf"backbone.weights: .*{name}"):
        load_backbone("MobileNet", weights=str(path), image_size=32)


def test_links_out_of_the_file_are_refused(tmp_path):
    path = _save(_mobilenet(include_top=False), tmp_path, "legacy.h5")
    with h5py.File(path, "a") as file:
        del file["conv1"]
        file["conv1"] = h5py.ExternalLink(str(tmp_path / "whole.h5"), "model_weights/conv1")
    with pytest.raises(UserError, match="is damaged: it lacks 'conv1'"):
        load_backbone("MobileNet", weights=path, image_size=32)
