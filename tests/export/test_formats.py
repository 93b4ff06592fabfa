"""Other runtimes' formats, asked in those runtimes, against a model whose answers are known."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.errors import TrainingError, UserError
from ftkeras.export import formats
from ftkeras.export.classifier import Classifier
from ftkeras.export.formats import Sample, Written, check_formats, export_format
from ftkeras.trunk.engines import openvino_core

NAMES = ["red", "green", "blue"]
SIZE = 16

pytestmark = pytest.mark.slow


def colour_model() -> keras.Model:
    """Its logits are five times the mean colour, 0..1."""
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    convolution = keras.layers.Conv2D(3, 1)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(convolution(x))
    logits = keras.layers.Dense(3, name="logits")
    model = keras.Model(image, logits(x))
    convolution.set_weights([np.eye(3).reshape(1, 1, 3, 3), np.zeros(3)])
    logits.set_weights([5 * np.eye(3), np.zeros(3)])
    return model


def colours(count: int) -> Sample:
    """Noisy red, green and blue images."""
    random = np.random.default_rng(0)
    which = np.arange(count) % 3
    images = random.integers(0, 100, (count, SIZE, SIZE, 3), np.uint8)
    images[np.arange(count), :, :, which] += 120
    return Sample(images, np.eye(3)[which])


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(colour_model(), NAMES, temperature=2.0)


@pytest.fixture(scope="module", params=formats.WRITERS)
def exported(request, classifier, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    sample = colours(120)
    path = export_format(classifier, folder, request.param, calibration=colours(9), test=sample)
    return request.param, Path(path)


def ask(file: Path, images: np.ndarray) -> np.ndarray:
    """Asks a model file as its runtime's own documentation does."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return session.run(None, {"images": images})[0]
    if file.suffix == ".xml":
        # By default it would compute in bfloat16 if the CPU can.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        model = openvino_core().compile_model(file, "CPU", exact)
        return model({"images": images})["scores"]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_the_files_answer_as_the_closed_form(exported):
    name, path = exported
    images = colours(4).inputs.astype(np.float32)
    logits = 2.5 * images.mean(axis=(1, 2)) / 255  # five times, over the temperature of two
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    files = [p for p in path.iterdir() if p.suffix in (".tflite", ".onnx", ".xml")]
    assert len(files) == (2 if name == "litert" else 1)
    for file in files:
        limit = 0.03 if "int8" in file.name else 0.01 if "float16" in file.name else 1e-5
        np.testing.assert_allclose(ask(file, images), expected, atol=limit)


def test_the_certificate_and_the_card_lie_beside_them(exported):
    name, path = exported
    found = json.loads((path / "certificate.json").read_text())
    assert (found["test_images"], found["keras_accuracy"]) == (120, 1.0)
    kinds = ["litert_float16", "litert_int8"] if name == "litert" else [name]
    for kind in kinds:
        own = found[kind]
        assert own["max_difference"] <= (own["tolerance"] or 0.1)
        assert (own["accuracy"], own["accuracy_drop"]) == (1.0, 0.0)
        assert set(own["latency_ms"]) == {"1", "32"}
        assert 0 < own["size_bytes"] <= found["size_bytes"]
    assert json.loads((path / "ftkeras.json").read_text())["class_names"] == NAMES


def off_by(amount: float, tolerance: float | None):
    def write(classifier: Classifier, folder: Path, _: Sample) -> dict[str, Written]:
        (folder / "x").write_text("x")
        uniform = lambda images: np.full((len(images), 3), 1 / 3)  # noqa: E731
        right = lambda images: sum(classifier.expected(tf.constant(images)).values()) + amount  # noqa: E731
        return {"x": Written(uniform if tolerance is None else right, tolerance, ("x",))}

    return write


@pytest.mark.parametrize(
    ("amount", "tolerance", "message"),
    [
        (2e-3, 1e-3, "x and the Keras model disagree by 0.002, and 0.001 is allowed"),
        (np.nan, 1e-3, "disagree by nan"),
        (0.0, None, "accuracy of 0.333, the Keras model 1.000"),
    ],
)
def test_a_format_that_answers_otherwise_is_not_written(
    classifier, tmp_path, monkeypatch, amount, tolerance, message
):
    monkeypatch.setitem(formats.WRITERS, "onnx", off_by(amount, tolerance))
    with pytest.raises(TrainingError, match=message):
        export_format(classifier, tmp_path, "onnx", calibration=colours(3), test=colours(120))
    assert os.listdir(tmp_path) == []


def test_a_converter_that_fails_says_why(classifier, tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("no such operation: Foo\nand a long trace")

    monkeypatch.setitem(formats.WRITERS, "onnx", fails)
    with pytest.raises(TrainingError, match="onnx cannot take this model: no such operation: Foo$"):
        export_format(classifier, tmp_path, "onnx", calibration=colours(3), test=colours(3))
    assert os.listdir(tmp_path) == []


def test_a_package_that_is_missing_is_named_before_anything_is_done(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="litert needs ai_edge_litert: pip install ai-edge-litert"):
        check_formats(["litert"])
    with pytest.raises(UserError, match="onnx needs tf2onnx and onnxruntime"):
        check_formats(["onnx"])
