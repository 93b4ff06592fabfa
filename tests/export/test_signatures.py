"""What the exported signatures answer, against closed forms."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.config.schema import HiddenLayer
from ftkeras.errors import UserError
from ftkeras.export import signatures
from ftkeras.export.classifier import Classifier, pooled_features
from ftkeras.export.signatures import archive_of, decoded
from ftkeras.inputs.image.file_check import DAMAGED, EMPTY, UNKNOWN, WEBP
from ftkeras.inputs.image.golden import broken_image, golden_images, refused_images
from ftkeras.model.head import attach_head

NAMES = ["red", "green", "blue"]
SIZE = 8


def colour_model() -> keras.Model:
    """Its pooled features are the mean colour, 0..1; its logits are five times that."""
    image = keras.Input((SIZE, SIZE, 3))
    mean = keras.layers.GlobalAveragePooling2D(name="head_pool")(
        keras.layers.Rescaling(1 / 255)(image)
    )
    logits = keras.layers.Dense(3, name="logits")
    model = keras.Model(image, logits(keras.layers.Dropout(0.5, name="head_dropout")(mean)))
    logits.set_weights([5 * np.eye(3), np.zeros(3)])
    return model


def png(*colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(file, "PNG")
    return file.getvalue()


def example(**features: bytes) -> bytes:
    fields = {
        name.replace("__", "/"): tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=fields)).SerializeToString()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("signatures"))
    classifier = Classifier(colour_model(), NAMES, temperature=2.0)
    archive_of(classifier, static_batch=2).write_out(folder)
    return tf.saved_model.load(folder)


def ask(served, signature: str, **inputs) -> dict[str, np.ndarray]:
    given = {name: tf.constant(value) for name, value in inputs.items()}
    return {k: v.numpy() for k, v in served.signatures[signature](**given).items()}


def softmax(logits) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def test_logits_are_divided_by_the_temperature(served):
    said = ask(served, "serving_default", image_bytes=[png(0, 255, 51)])
    assert said["class_names"].tolist() == [[b"green", b"blue", b"red"]]
    assert said["class_indices"].tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(said["scores"][0], softmax(np.array([2.5, 0.5, 0.0])), atol=1e-6)
    assert said["error"].tolist() == [b""]


def test_features_are_those_between_pooling_and_dropout(served):
    said = ask(served, "features", image_bytes=[png(0, 255, 51), b"", png(255, 0, 0)])
    np.testing.assert_allclose(said["features"], [[0, 1, 0.2], [0, 0, 0], [1, 0, 0]], atol=1e-6)
    assert [bool(error) for error in said["error"]] == [False, True, False]


def test_examples_are_the_images_in_them(served):
    files = [png(255, 0, 0), png(0, 0, 255)]
    wanted = ask(served, "serving_default", image_bytes=files)
    said = ask(served, "examples", examples=[example(image__encoded=file) for file in files])
    for name, values in wanted.items():
        np.testing.assert_array_equal(said[name], values)


BROKEN = {  # and how its error begins
    broken_image(): DAMAGED,
    golden_images()["grey"][:-40]: DAMAGED,
    b"\x89PNG\r\n\x1a\n": DAMAGED,
    b"BM": DAMAGED,
    b"GIF89a": DAMAGED,
    b"": EMPTY,
    b"hello": UNKNOWN,
    refused_images()["webp"]: WEBP,
    refused_images()["animated webp"]: WEBP,
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\0\xff\xff" * 2: "65535 x 65535 pixels; the limit is",
}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_broken_file_has_an_error_and_its_neighbours_have_answers(served, place):
    files = [png(255, 0, 0), png(0, 0, 255)]
    wanted = ask(served, "serving_default", image_bytes=files)
    files[place:place] = BROKEN
    said = ask(served, "serving_default", image_bytes=files)
    gone = slice(place, place + len(BROKEN))
    for error, wanted_error in zip(said["error"][gone], BROKEN.values(), strict=True):
        assert error.decode().startswith(wanted_error)
    assert not said["scores"][gone].any()
    assert (said["class_indices"][gone] == -1).all()
    assert set(said["class_names"][gone].ravel()) == {b""}
    kept = {name: np.delete(values, gone, axis=0) for name, values in said.items()}
    np.testing.assert_allclose(kept.pop("scores"), wanted.pop("scores"), atol=1e-6)
    for name, values in kept.items():
        np.testing.assert_array_equal(values, wanted[name])


def test_an_example_without_an_image_has_an_error(served):
    good = example(image__encoded=png(255, 0, 0))
    webp = example(image__encoded=refused_images()["animated webp"])
    questions = [good, b"\xff\xff no example", example(other=b"x"), good[: len(good) // 2], webp]
    said = ask(served, "examples", examples=questions)
    empty = EMPTY.encode()
    assert said["error"].tolist() == [b"", empty, empty, empty, WEBP.encode()]
    assert said["class_names"][0, 0] == b"red"


def test_no_images_have_no_answers(served):
    said = ask(served, "serving_default", image_bytes=tf.zeros((0,), tf.string))
    assert {name: values.shape for name, values in said.items()} == {
        "scores": (0, 3), "class_indices": (0, 3), "class_names": (0, 3), "error": (0,)
    }  # fmt: skip


class Doubling(keras.layers.Layer):
    """Counts its calls, and reads from a table that 1 is 2."""

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = 0
        rows = tf.lookup.KeyValueTensorInitializer([1], [2.0])
        self.table = tf.lookup.StaticHashTable(rows, -1.0)

    def call(self, inputs):
        self.calls += 1
        return inputs * self.table.lookup(tf.constant(1))

    def compute_output_shape(self, shape):
        return shape


def test_model_and_decoder_are_traced_once_for_all_signatures(tmp_path, monkeypatch):
    """Also for OpenVINO's opinion; and a table in a layer is written, too."""
    read = []
    monkeypatch.setattr(
        signatures, "decoded", lambda raw, kind: read.append(raw) or decoded(raw, kind)
    )
    image = keras.Input((SIZE, SIZE, 3))
    layer = Doubling()
    mean = keras.layers.GlobalAveragePooling2D(name="head_pool")(layer(image))
    model = keras.Model(
        image, keras.layers.Dense(3, name="logits", kernel_initializer="ones")(mean)
    )
    layer.calls = 0
    classifier = Classifier(model, NAMES)
    archive_of(classifier).write_out(str(tmp_path))
    assert classifier.frozen.graph.as_graph_def().node
    assert (layer.calls, len(read)) == (1, 1)
    served = tf.saved_model.load(str(tmp_path))
    assert set(served.signatures) == {"serving_default", "examples", "images", "features"}
    said = ask(served, "features", image_bytes=[png(255, 0, 51)])
    np.testing.assert_allclose(said["features"], [[510, 0, 102]])


def test_the_static_signature_can_be_compiled(served):
    images = np.zeros((2, SIZE, SIZE, 3), np.float32)
    images[0, ..., 2] = images[1, ..., 0] = 255
    assert served.signatures["images_static"].structured_input_signature[1]["images"].shape == (
        2, SIZE, SIZE, 3
    )  # fmt: skip
    compiled = tf.function(served.signatures["images_static"], jit_compile=True)
    said = compiled(images=tf.constant(images))
    assert said["class_indices"].numpy()[:, 0].tolist() == [2, 0]
    wanted = ask(served, "images", images=images)
    np.testing.assert_allclose(said["scores"], wanted["scores"], atol=1e-6)


def test_several_labels_have_thresholds_of_their_own(tmp_path):
    classifier = Classifier(
        colour_model(), NAMES, multi_label=True, temperature=2.0, thresholds=[0.9, 0.95, 0.4]
    )
    archive_of(classifier).write_out(str(tmp_path))
    served = tf.saved_model.load(str(tmp_path))
    said = ask(served, "serving_default", image_bytes=[png(255, 254, 0), b"x"])
    # sigmoid(2.5) = 0.924 for red and a little less for green; sigmoid(0) = 0.5 for blue.
    np.testing.assert_allclose(said["scores"][0], [0.9241, 0.9234, 0.5], atol=1e-4)
    assert said["class_names"][0].tolist() == [b"red", b"green", b"blue"]
    assert said["predicted"].tolist() == [[True, False, True], [False] * 3]


def backbone(output_rank: int) -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 1)(image)
    x = x if output_rank == 4 else keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, x, name="backbone")


@pytest.mark.parametrize(
    ("rank", "head", "channels"),
    [
        (4, {}, 4),
        (4, {"pooling": "avg_max", "hidden": [HiddenLayer(units=7, dropout=0.1)]}, 8),
        (2, {"dropout": 0.0}, 4),
        (2, {"hidden": [HiddenLayer(units=7), HiddenLayer(units=5, normalization="batch")]}, 4),
    ],
)
def test_features_are_found_under_every_head(rank, head, channels):
    base, image = backbone(rank), keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, attach_head(base(image), 3, **head))
    assert pooled_features(model).shape == (None, channels)


def test_a_model_of_another_make_has_no_features():
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    assert pooled_features(model) is None


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"class_names": ["a", "b"]}, "3 classes, but the data name 2"),
        ({"resize": "crp"}, "Did you mean 'crop'"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"thresholds": [0.5]}, "1 threshold for 3"),
    ],
)
def test_what_does_not_fit_is_refused(facts, message):
    with pytest.raises(UserError, match=message):
        Classifier(**({"model": colour_model(), "class_names": NAMES} | facts))
