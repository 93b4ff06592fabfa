"""The shipped files are what PROVENANCE says, and they make a working backbone."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import subprocess
import sys
import zipfile
from collections import Counter

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from ftkeras import starter
from ftkeras.errors import UserError

FOLDER = starter.archive_path().parent


def mobilenet(size: int = 96, **kwargs: object) -> keras.Model:
    arguments = {"alpha": 1.0, "include_top": False, "weights": None} | kwargs
    return keras.applications.MobileNetV2(input_shape=(size, size, 3), **arguments)


def outputs_in_provenance() -> dict[str, str]:
    text = (FOLDER / "PROVENANCE").read_text()
    return {name: sha for sha, name in re.findall(r"Output +sha256 ([0-9a-f]{64})  (\S+)", text)}


def test_checksums_are_those_of_provenance():
    shipped = {p.name for p in FOLDER.iterdir() if p.suffix in (".npz", ".zip")}
    assert outputs_in_provenance().keys() == shipped
    for name, checksum in outputs_in_provenance().items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == checksum


def test_sizes_stay_under_their_limits():
    images = {"mobilenet_v2_160_notop_float16.npz", "fashion_mnist.zip"}
    sizes = {name: (FOLDER / name).stat().st_size for name in outputs_in_provenance()}
    assert sum(sizes[name] for name in images) <= 7_000_000
    assert sum(size for name, size in sizes.items() if name not in images) <= 4_000_000


def test_images_are_small_grey_pngs_balanced_over_ten_classes():
    counts: Counter[tuple[str, str]] = Counter()
    pixels = set()
    with zipfile.ZipFile(starter.archive_path()) as archive:
        for name in archive.namelist():
            part, class_name, file = name.split("/")
            content = archive.read(name)
            image = Image.open(io.BytesIO(content))
            assert (image.format, image.size, image.mode) == ("PNG", (28, 28), "L")
            assert re.fullmatch(r"\d{4}\.png", file)
            counts[part, class_name] += 1
            pixels.add(image.tobytes())
    classes = {class_name for _, class_name in counts}
    assert len(classes) == 10
    assert counts == {(p, c): n for p, n in [("train", 200), ("test", 100)] for c in classes}
    assert len(pixels) == 3000  # no image twice, none in both parts


def test_no_two_emoji_are_the_same_picture():
    with zipfile.ZipFile(starter.archive_path("emoji.zip")) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("emoji.csv").decode())))
        pixels = {
            Image.open(io.BytesIO(archive.read(row["path"]))).convert("RGB").tobytes()
            for row in rows
        }
    assert len(pixels) == len(rows) == 652


def test_every_variable_is_set_to_a_float32_copy_of_the_file():
    model = mobilenet(size=64, pooling="avg")
    starter.load_weights_into(model)
    with np.load(FOLDER / "mobilenet_v2_160_notop_float16.npz", allow_pickle=False) as file:
        assert len(model.variables) == len(file.files) == 260
        for layer in model.layers:
            for variable in layer.variables:
                assert variable.dtype == "float32"
                shipped = file[f"{layer.name}/{variable.name}"]
                assert shipped.dtype == (np.float16 if shipped.size > 4000 else np.float32)
                np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), shipped)


@pytest.mark.parametrize(
    "other",
    [
        lambda: mobilenet(alpha=0.5),
        lambda: mobilenet(include_top=True, classes=3),
        lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)], name="own"),
    ],
    ids=["alpha", "top", "other"],
)
def test_another_architecture_is_refused_and_left_alone(other):
    model = other()
    before = model.get_weights()
    with pytest.raises(UserError, match="fits only MobileNetV2") as error:
        starter.load_weights_into(model)
    assert "\n" not in str(error.value) and repr(model.name) in str(error.value)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def read_part(part: str, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    with zipfile.ZipFile(starter.archive_path()) as archive:
        for name in archive.namelist():
            if name.startswith(f"{part}/") and int(name[-8:-4]) < per_class:
                image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                images.append(np.asarray(image.resize((96, 96), Image.Resampling.BILINEAR)))
                labels.append(name.split("/")[1])
    return np.stack(images).astype("float32") / 127.5 - 1, np.array(labels)


@pytest.mark.slow
def test_features_carry_what_a_linear_probe_needs():
    """50 training and 20 test images per class: 0.795 shipped, 0.10 random weights (measured)."""
    x_train, y_train = read_part("train", 50)
    x_test, y_test = read_part("test", 20)
    model = mobilenet(pooling="avg")
    starter.load_weights_into(model)
    probe = LogisticRegression(max_iter=1000).fit(model.predict(x_train, verbose=0), y_train)
    assert probe.score(model.predict(x_test, verbose=0), y_test) >= 0.75


def test_importing_the_starter_needs_no_tensorflow():
    code = "import ftkeras.starter.text, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
