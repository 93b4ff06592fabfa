from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.load import load_data
from ftkeras.data.sources import arrays
from ftkeras.errors import UserError
from ftkeras.inputs.image.input import ImageInput

KIND = ImageInput()

IMAGES = np.arange(20 * 4 * 5, dtype=np.uint8).reshape(20, 4, 5)
LABELS = np.arange(20) % 2


@pytest.fixture
def save(tmp_path):
    def make(**contents: np.ndarray) -> str:
        np.savez(tmp_path / "data.npz", **contents)
        return str(tmp_path / "data.npz")

    return make


def test_images_and_labels(save):
    path = save(images=IMAGES, labels=LABELS)
    data = load_data("arrays", path=path, class_names=["even", "odd"], split={"val": 0.2})
    assert data.class_names == ("even", "odd")
    for split in data.splits.values():
        for i, key in enumerate(split.ids):
            number = int(key.removeprefix("images[").removesuffix("]"))
            assert split.labels[i] == number % 2
            image = split.fetch(tf.constant(i, tf.int64)).numpy()
            np.testing.assert_array_equal(image, IMAGES[number][..., None].repeat(3, axis=-1))


def test_parts_as_keras_saves_them(save):
    path = save(x_train=IMAGES, y_train=LABELS[:, None], x_test=IMAGES[:4], y_test=LABELS[:4])
    found = arrays.find(kind=KIND, path=path, parts={})
    assert found.parts == ["train"] * 20 + ["test"] * 4
    assert found.class_names == ["0", "1"]


def test_rows_of_zeros_and_ones_are_several_labels(save):
    hot = np.zeros((20, 3))
    hot[:, 0], hot[::2, 2] = 1, 1
    found = arrays.find(kind=KIND, path=save(images=IMAGES, labels=hot), parts={})
    assert found.label_kind == "labels" and found.labels[:2] == [("0", "2"), ("0",)]


def test_pickled_objects_are_never_loaded(save, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    path = save(images=np.array([Trap()], dtype=object), labels=LABELS)
    with pytest.raises(UserError, match="never loaded"):
        arrays.find(kind=KIND, path=path, parts={})
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"images": IMAGES / 255.0, "labels": LABELS}, "must be uint8, 0 to 255"),
        ({"images": IMAGES[0], "labels": LABELS}, "it must be .n, h, w"),
        ({"images": IMAGES, "labels": LABELS[:5]}, "one row per example"),
        ({"images": IMAGES, "labels": np.zeros((20, 0))}, "one row per example"),
        ({"images": IMAGES, "labels": LABELS - 0.5}, "class indices from 0 on"),
        ({"images": IMAGES, "labels": LABELS - 1}, "class indices from 0 on"),
        ({"images": IMAGES, "label": LABELS}, "no array 'labels'. Did you mean 'label'"),
        ({"pictures": IMAGES}, "it holds pictures"),
    ],
)
def test_arrays_that_do_not_fit(save, contents, message):
    with pytest.raises(UserError, match=message):
        arrays.find(kind=KIND, path=save(**contents), parts={})


def test_too_few_names(save):
    with pytest.raises(UserError, match="1 name for 2 classes"):
        arrays.find(
            kind=KIND,
            path=save(images=IMAGES, labels=LABELS),
            parts={},
            class_names=["even"],
        )


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match="not an .npz file"):
        arrays.find(kind=KIND, path=str(tmp_path / "data.npz"), parts={})
    np.save(tmp_path / "data.npy", IMAGES)
    with pytest.raises(UserError, match="holds one array"):
        arrays.find(kind=KIND, path=str(tmp_path / "data.npy"), parts={})
