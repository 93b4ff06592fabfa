"""Answers about data sets, in order, and about real image files."""

from __future__ import annotations

import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.errors import UserError
from ftkeras.evaluation.predict import (
    FilePrediction,
    expand_inputs,
    predict_files,
    predict_logits,
)
from ftkeras.inputs.image.input import ImageInput
from ftkeras.inputs.text.input import TextInput
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.one_of import OneOf

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def mean_colour_model() -> keras.Model:
    """Returns a model whose logits are the image's mean red, green and blue."""
    image = keras.Input((4, 4, 3))
    x = keras.layers.Dropout(0.9)(image)  # changes everything unless inference is meant
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


def test_every_example_is_answered_in_order():
    images = np.random.default_rng(0).uniform(0, 255, (23, 4, 4, 3)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[np.arange(23) % 3]
    for columns in ((images, labels), (images, labels, np.ones(23, np.float32))):
        data = tf.data.Dataset.from_tensor_slices(columns).batch(5)
        logits, targets = predict_logits(mean_colour_model(), data, "evaluate test")
        np.testing.assert_allclose(logits, images.mean(axis=(1, 2)), rtol=1e-5)
        np.testing.assert_array_equal(targets, labels)


def test_a_data_set_of_unknown_length_and_an_empty_one():
    images = np.zeros((6, 4, 4, 3), np.float32)
    data = tf.data.Dataset.from_tensor_slices((images, np.arange(6))).batch(4)
    unknown = data.filter(lambda image, label: True)
    assert int(unknown.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    logits, labels = predict_logits(mean_colour_model(), unknown, "evaluate test")
    assert logits.shape == (6, 3) and labels.tolist() == list(range(6))
    logits, labels = predict_logits(mean_colour_model(), data.take(0), "evaluate test")
    assert logits.shape == (0, 3) and len(labels) == 0


# ------------------------------------------------------------------------------ files


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures in one colour each, and of what is no picture."""
    for name, colour in COLOURS.items():
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 30), colour).save(folder / f"{name}.png")
    photos = tmp_path / "photos"
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(photos / "red" / "cmyk.jpg")
    Image.new("RGB", (9, 9), (0, 0, 255)).save(photos / "blue" / "lossless.webp", lossless=True)
    (photos / "notes.txt").write_text("no picture")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (photos / "empty.png").touch()
    return photos


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Its logits are the mean red, green and blue, in 0..5."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Rescaling(5 / 255)(x))


def rows(model, paths, **changes) -> list[FilePrediction]:
    options = {
        "kind": ImageInput(8),
        "batch_size": 2,
    }
    output = changes.pop("output", OneOf(tuple(COLOURS)))
    return list(predict_files(model, paths, {"colour": output}, **(options | changes)))


def test_files_folders_and_globs_are_expanded_once_each(photos):
    def names(*patterns: str) -> list[str]:
        return [os.path.relpath(path, photos) for path in expand_inputs(patterns, ImageInput())]

    told: list[str] = []
    expand_inputs([str(photos), str(photos / "red")], ImageInput(), told.append)
    assert told == [
        f"{photos}: 1 of 8 files is left out, such as notes.txt: in a folder only JPEG, PNG, GIF, "
        "BMP or WebP files are read."
    ]
    everything = names(str(photos))
    assert everything == sorted(everything) and len(everything) == 7
    assert "notes.txt" not in everything and "broken.jpg" in everything
    assert names(str(photos / "*.jpg"), str(photos / "red")) == [
        "broken.jpg",
        "red/cmyk.jpg",
        "red/red.png",
    ]
    assert names(str(photos / "notes.txt")) == ["notes.txt"]  # named, so it is asked about
    assert len(names(str(photos), str(photos / "red" / "red.png"))) == 7


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path):
    odd = tmp_path / "cat[1].png"
    Image.new("RGB", (4, 4)).save(odd)
    assert expand_inputs([str(odd)], ImageInput()) == [str(odd)]


def test_nothing_found_is_the_users_error(photos, tmp_path):
    (tmp_path / "void").mkdir()
    for nothing, why in (
        (tmp_path / "void", "no images at"),
        (tmp_path / "gone.jpg", "there is no file or folder"),
        (photos / "*.tiff", "there is no file or folder"),
    ):
        with pytest.raises(UserError, match=f"predict: {why} ") as error:
            expand_inputs([str(photos), str(nothing)], ImageInput())
        assert str(nothing) in str(error.value) and "echo" not in str(error.value)
    with pytest.raises(UserError, match="no file or folder 'when .*'\\. .* predict RUN -`"):
        expand_inputs(["when will my lamp ship?"], TextInput())


def test_each_file_is_answered_in_order_and_bad_ones_say_why(model, photos):
    paths = [
        *expand_inputs([str(photos)], ImageInput()),
        str(photos / "notes.txt"),
        str(photos / "gone.jpg"),
    ]
    answered = rows(model, paths, top_k=2)
    assert [row.file for row in answered] == paths
    for row in answered:
        parent = os.path.basename(os.path.dirname(row.file))
        if parent in COLOURS:
            assert row.best[0][0] == parent and not row.error
            assert len(row.best) == 2
        else:
            with pytest.raises(UserError, match=re.escape(f"{row.file}: {row.error}")):
                row.best  # noqa: B018 (it raises)
    odds = np.exp(5) / (np.exp(5) + 2)
    green = next(row for row in answered if row.file.endswith("green.png"))
    assert green.best[0][1] == pytest.approx(odds, abs=1e-6)


def test_scores_of_labels_are_sigmoids_and_top_k_stops_at_the_classes(model, photos):
    (row,) = rows(model, [str(photos / "red" / "red.png")], output=AnyOf(tuple(COLOURS)), top_k=9)
    assert [name for name, _ in row.best] == ["red", "green", "blue"]
    assert [score for _, score in row.best] == pytest.approx([1 / (1 + np.exp(-5)), 0.5, 0.5])


def test_only_bad_files_are_no_crash(model, photos):
    (row,) = rows(model, [str(photos / "empty.png")])
    assert row.error == "empty file"
