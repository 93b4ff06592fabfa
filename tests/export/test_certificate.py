"""The check that an exported model answers as its Keras model, in a fresh process."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from ftkeras.errors import TrainingError
from ftkeras.export import certificate
from ftkeras.export.certificate import check_saved_model, golden_images
from ftkeras.export.saved_model import export_saved_model

NAMES = ["cat", "dog", "\u00e9l\u00e9phant"]


def linear_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    return keras.Model(image, keras.layers.Dense(3, name="logits")(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return linear_model()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> str:
    return export_saved_model(
        model,
        tmp_path_factory.mktemp("export"),
        class_names=NAMES,
        image_size=16,
        resize="crop",
        multi_label=False,
        golden=[],
    )


def check(path: str, model: keras.Model, **changes) -> float:
    options = {
        "class_names": NAMES,
        "image_size": 16,
        "resize": "crop",
        "multi_label": False,
    }
    return check_saved_model(path, model, golden_images(), **(options | changes))


@pytest.mark.slow
def test_check_passes_the_model_and_catches_one_whose_weights_changed(exported):
    same = linear_model()
    assert check(exported, same) <= 1e-5
    kernel = same.get_layer("logits").kernel
    kernel.assign(kernel * 1.05)
    with pytest.raises(TrainingError, match="'serving_default'.* disagree by"):
        check(exported, same)


@pytest.mark.slow
def test_check_catches_other_names(model, exported):
    with pytest.raises(TrainingError, match="other class names"):
        check(exported, model, class_names=["dog", "cat", NAMES[2]])


@pytest.mark.slow
def test_check_says_why_a_model_cannot_be_served(model, tmp_path):
    with pytest.raises(TrainingError, match="cannot be served: .*SavedModel file does not exist"):
        check(str(tmp_path), model)


@pytest.mark.slow
def test_the_fresh_process_answers_without_ftkeras(exported, tmp_path):
    """In isolated mode, where nothing but what is installed can be imported."""
    (tmp_path / "0.image").write_bytes(golden_images()[0])
    np.save(tmp_path / "images.npy", np.zeros((2, 16, 16, 3), np.float32))
    script = Path(certificate.__file__).with_name("fresh_process.py")
    source = (
        "import runpy, sys; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__');"
        "assert not [name for name in sys.modules if name.startswith('ftkeras')]"
    )
    command = [sys.executable, "-I", "-c", source, script, exported, tmp_path, tmp_path / "a.npz"]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as answers:
        assert answers["serving_default/scores"].shape == (1, 3)
        assert answers["images/scores"].shape == (2, 3)
        assert set(answers["images/class_names"][0]) == set(NAMES)


def test_golden_images_are_the_kinds_they_say_and_never_change():
    images = golden_images()
    assert images == golden_images()
    opened = [Image.open(io.BytesIO(image)) for image in images]
    assert [(image.format, image.mode) for image in opened] == [
        ("JPEG", "RGB"),
        ("PNG", "L"),
        ("PNG", "RGBA"),
        ("JPEG", "RGB"),
        ("PNG", "RGB"),
    ]
    assert opened[3].getexif()[0x0112] == 6
    assert opened[4].size == (5, 3)
