"""The right preprocessing is told from the wrong by what batch norm remembers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.backbones import load_backbone
from ftkeras.doctor.preprocessing import check_preprocessing, statistics_misfit
from ftkeras.model.assemble import build_model


@pytest.fixture(scope="module")
def images(new_photo):
    return np.stack([np.asarray(new_photo(i, 64, 64), np.float32) for i in range(16)])


@pytest.fixture(scope="module")
def starter():
    return load_backbone("MobileNetV2", weights="starter", image_size=64)


def test_the_shipped_weights_fit_their_own_kind_best(starter, images):
    misfits = statistics_misfit(starter.model, images)
    assert min(misfits, key=misfits.__getitem__) == "tf"
    assert misfits["tf"] < 1 < misfits["caffe"] < misfits["none"]


def test_a_classifier_as_it_should_be_gives_no_finding(starter, images):
    said, found = check_preprocessing(build_model(starter, 3), starter, images)
    assert found == []
    assert said.startswith("tf (-1..1)") and said.endswith("first batch norm expects tf")


def test_a_file_that_lost_its_preprocessing_is_found(starter, images, tmp_path):
    # Its layers have names of their own, so that no code can know what they expect.
    def renamed(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "name": f"my_{layer.name}"})

    bare = keras.models.clone_model(starter.model, clone_function=renamed)
    bare.set_weights(starter.model.get_weights())
    bare.save(tmp_path / "mine.keras")
    mine = load_backbone(str(tmp_path / "mine.keras"))
    _, (found,) = check_preprocessing(build_model(mine, 3), mine, images)
    assert (found.severity, found.check) == ("error", "preprocessing of the weights")
    assert "fit tf (-1..1) much better" in found.message


def test_weights_that_never_trained_say_nothing(images):
    fresh = load_backbone("MobileNetV2", weights="none", image_size=64)
    assert statistics_misfit(fresh.model, images) == {}
    assert check_preprocessing(build_model(fresh, 3), fresh, images)[1] == []


def test_images_scaled_already_are_found(starter, images):
    _, found = check_preprocessing(build_model(starter, 3), starter, images / 255)
    assert "pixel range" in {finding.check for finding in found}


def test_features_that_are_the_same_for_all_images_are_found(images):
    broken = load_backbone("MobileNetV2", weights="none", image_size=64)
    for weight in broken.model.weights:
        if weight.path.endswith("gamma"):
            weight.assign(np.zeros(weight.shape))
    _, found = check_preprocessing(build_model(broken, 3), broken, images)
    assert [finding.check for finding in found] == ["features"]
