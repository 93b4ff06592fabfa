"""The scores that an export serves, for every way that a classifier may end."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.errors import TrainingError, UserError
from ftkeras.export import formats
from ftkeras.export.classifier import Classifier, Served
from ftkeras.export.formats import Sample, export_format
from ftkeras.export.saved_model import export_saved_model
from ftkeras.inputs.image.golden import golden_images
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.ending import Ending
from ftkeras.outputs.number import Number
from ftkeras.outputs.one_of import OneOf

NAMES = ["red", "green", "blue"]
SIZE = 16


def colour_model(activation: str | None, units: int = 3) -> keras.Model:
    """Its logits are five times the mean colour, 0..1; of one unit, minus those of green."""
    image = keras.Input((SIZE, SIZE, 3))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    last = keras.layers.Dense(units, activation)
    model = keras.Model(image, last(mean))
    kernel = 5 * np.eye(3) if units == 3 else np.array([[5.0], [-5.0], [0.0]])
    last.set_weights([kernel, np.zeros(units)])
    return model


def images(count: int) -> np.ndarray:
    return (
        np.random.default_rng(0).integers(0, 256, (count, 1, 1, 3)).repeat(SIZE, 1).repeat(SIZE, 2)
    )


def closed_form(kind: str, pixels: np.ndarray, temperature: float) -> np.ndarray:
    """The scores by hand, in the order of the classes."""
    logits = 5 * pixels.mean(axis=(1, 2)) / 255 / temperature
    if kind == "label":
        return 1 / (1 + np.exp(-logits))
    if kind == "unit":
        positive = 1 / (1 + np.exp(logits[:, 1:2] - logits[:, :1]))
        return np.hstack([1 - positive, positive])
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def classifier(activation: str | None, kind: str, temperature: float = 1.0) -> Classifier:
    if kind == "unit":
        model = colour_model(activation, units=1)
        return Classifier(model, ["bad", "good"], temperature=temperature)
    several = kind == "label"
    model = colour_model(activation)
    return Classifier(model, NAMES, multi_label=several, temperature=temperature)


KINDS = [
    ("softmax", "class"), (None, "class"), ("sigmoid", "label"), (None, "label"),
    ("sigmoid", "unit"), (None, "unit"),
]  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("activation", "kind"), KINDS)
def test_the_graph_and_its_reference_are_the_closed_form(activation, kind, temperature):
    served, pixels = classifier(activation, kind, temperature), images(8).astype(np.float32)
    wanted = closed_form(kind, pixels, temperature)
    answer = tf.function(lambda x: served.answers([served.network(x, training=False)]))
    said = {name: values.numpy() for name, values in answer(tf.constant(pixels)).items()}
    scores = np.take_along_axis(said["scores"], np.argsort(said["class_indices"]), axis=1)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    [expected] = served.expected(tf.constant(pixels)).values()
    np.testing.assert_allclose(expected, wanted, atol=1e-5)
    names = ["class_indices", "class_names", "scores"]
    assert sorted(said) == sorted([*names, *(["predicted"] if kind == "label" else [])])


def test_at_temperature_1_the_reference_is_the_models_own_output():
    for activation, kind in (("softmax", "class"), ("sigmoid", "label")):
        served, pixels = classifier(activation, kind), tf.constant(images(4), tf.float32)
        [expected] = served.expected(pixels).values()
        np.testing.assert_array_equal(expected, served.model(pixels))


@pytest.mark.parametrize(
    ("activation", "units", "facts", "message"),
    [
        ("relu", 3, {}, "activation relu"),
        ("softmax", 3, {"multi_label": True}, "Leave multi_label out"),
        (
            "sigmoid",
            1,
            {"class_names": ["good"]},
            "2 classes, but the data name 1.*takes both names",
        ),
        (
            None,
            1,
            {"class_names": ["a", "b"], "multi_label": True},
            "1 class, .*name 2.*one label",
        ),
        ("softmax", 1, {"class_names": ["a", "b"]}, "1 for every example"),
    ],
)
def test_what_cannot_be_served_is_refused_when_the_classifier_is_made(
    activation, units, facts, message
):
    with pytest.raises(UserError, match=message):
        Classifier(**{"model": colour_model(activation, units), "class_names": NAMES} | facts)


def planted(self: Ending, outputs: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
    """A softmax on top of the scores."""
    return tf.nn.softmax(_right(self, outputs, temperature))


_right = Ending.scores


@pytest.mark.slow
def test_the_saved_model_of_a_softmax_serves_its_scores(tmp_path, monkeypatch):
    wanted = np.array([0.9932, 0.0065, 0.0003])
    model = colour_model("softmax")
    model.layers[-1].set_weights([np.zeros((3, 3)), np.log(wanted)])
    golden = {"grey": golden_images()["grey"]}
    path = export_saved_model(Classifier(model, NAMES), tmp_path, golden=golden)
    said = tf.saved_model.load(path).signatures["images"](images=tf.zeros((1, SIZE, SIZE, 3)))
    np.testing.assert_allclose(said["scores"], [wanted], atol=1e-5)
    assert said["class_names"].numpy().tolist() == [[b"red", b"green", b"blue"]]
    found = json.loads(Path(path, "assets.extra", "certificate.json").read_text())
    assert max(found["saved_model"]["max_difference"].values()) < 1e-6

    monkeypatch.setattr(Ending, "scores", planted)
    with pytest.raises(TrainingError, match="and the Keras model disagree by 0.4"):
        export_saved_model(Classifier(model, NAMES), tmp_path, golden=golden)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")
@pytest.mark.parametrize("name", formats.WRITERS)
def test_every_format_serves_them_under_a_temperature(name, tmp_path, monkeypatch):
    """And one with a second softmax is not written."""
    sample = Sample(images(30).astype(np.uint8), np.eye(3)[np.arange(30) % 3])
    for number, (activation, kind) in enumerate([("softmax", "class"), ("sigmoid", "label")]):
        served, folder = classifier(activation, kind, 2.0), tmp_path / str(number)
        folder.mkdir()
        written = formats.WRITERS[name](served, folder, sample)
        pixels = images(20).astype(np.float32)
        for file, one in written.items():
            limit = 0.03 if "int8" in file else 0.01 if "float16" in file else 1e-5
            wanted = closed_form(kind, pixels, 2.0)
            np.testing.assert_allclose(one.answer(pixels), wanted, atol=limit, err_msg=file)
    monkeypatch.setattr(Ending, "scores", planted)
    with pytest.raises(TrainingError, match="disagree by 0"):
        served = classifier("softmax", "class")
        export_format(served, tmp_path, name, calibration=sample, test=sample)


def test_scores_that_a_layer_of_another_make_calls_logits_are_caught():
    class Own(keras.layers.Layer):
        activation = "linear"

        def call(self, inputs):
            return tf.nn.softmax(inputs)

    base = colour_model(None)
    lying = Classifier(keras.Model(base.input, Own()(base.output)), NAMES)
    with pytest.raises(UserError, match="add up to 1 .* attribute `activation` to 'softmax'"):
        lying.expected(tf.constant(images(4), tf.float32))


def test_each_output_is_served_as_it_is():
    image = keras.Input((SIZE, SIZE, 3))
    ends = {"kind": ("softmax", 3), "good": ("sigmoid", 1), "tags": ("sigmoid", 3)}
    outputs = {name: colour_model(*end)(image) for name, end in ends.items()}
    model = keras.Model(image, outputs | {"age": colour_model("relu", 1)(image)})
    answers = {
        "kind": OneOf(tuple(NAMES)),
        "good": OneOf(("bad", "good")),
        "tags": AnyOf(tuple(NAMES)),
        "age": Number(mean=10.0, scale=2.0),
    }
    served = Served(model, answers, temperatures={"kind": 2.0})
    pixels = tf.constant(images(6), tf.float32)
    said = served.answers(keras.tree.flatten(served.network(pixels, training=False)))
    said = {name: values.numpy() for name, values in said.items()}
    expected = served.expected(pixels)
    for name, kind, temperature in (
        ("kind", "class", 2),
        ("good", "unit", 1),
        ("tags", "label", 1),
    ):
        wanted = closed_form(kind, pixels.numpy(), temperature)
        np.testing.assert_allclose(expected[name], wanted, atol=1e-5)
        order = np.argsort(said[f"{name}_class_indices"])
        scores = np.take_along_axis(said[f"{name}_scores"], order, axis=1)
        np.testing.assert_allclose(scores, wanted, atol=1e-5)
    np.testing.assert_allclose(said["age_value"], expected["age"], rtol=1e-6)
    with pytest.raises(UserError, match="activation relu"):
        Served(model, {"age": OneOf(("young", "old"))})
