"""Every verb on a run whose model ends in another way than ftkeras makes them."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from PIL import Image

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.data.dataset import Split
from ftkeras.errors import UserError
from ftkeras.inputs.image.explanation import grad_cam
from ftkeras.inputs.image.input import ImageInput
from ftkeras.outputs.ending import ending_of
from ftkeras.run import Run
from ftkeras.tasks.adversarial.evaluation import measure_attacked

pytestmark = pytest.mark.slow

SHADES = np.random.default_rng(0).permutation(60) * 4 + 8


def shade_model(activation: str | None, units: int) -> keras.Model:
    """The logit of light, minus that of dark, is 1 for every 20 above a shade of 130."""
    image = keras.Input((32, 32, 3))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.AveragePooling2D(8)(image))
    last = keras.layers.Dense(units, activation)
    model = keras.Model(image, last(mean))
    sides = np.array([[-0.5, 0.5]]) if units == 2 else np.ones((1, 1))
    last.set_weights([np.repeat(sides / 60, 3, axis=0), -6.5 * sides[0]])
    return model


ENDS = [(None, 2), ("softmax", 2), (None, 1), ("sigmoid", 1)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """What a finished run leaves; some shades are labelled wrong."""
    folder = tmp_path_factory.mktemp("run")
    pixels = np.broadcast_to(SHADES[:, None, None, None], (60, 32, 32, 3)).astype(np.uint8)
    labels = (SHADES + np.random.default_rng(1).normal(0, 30, 60) > 130).astype(np.int64)
    np.savez(folder / "shades.npz", images=pixels, labels=labels)
    data = {
        "source": "arrays",
        "path": str(folder / "shades.npz"),
        "class_names": ["dark", "light"],
        "input": {"size": 32},
        "split": {"val": 0.4, "test": 0.4},
    }
    phases = [{"name": "head", "epochs": 1, "learning_rate": 1e-3}]
    backbone = {"name": "MobileNetV2", "weights": "none"}
    config = parse_config({"data": data, "backbone": backbone, "phases": phases})
    run = Run.create(str(folder / "run"), config)
    facts = {"class_names": data["class_names"], "multi_label": False, "image_size": 32}
    run.write_json("data.json", {**facts, "examples": {"test": 24}, "notes": []})
    return run


def verbs(run: Run, activation: str | None, units: int, picture: str) -> tuple[dict, dict]:
    """Returns what evaluate and predict say of the run with such a model."""
    shade_model(activation, units).save(run.path("model.keras"))
    measured = ftkeras.evaluate(run)
    [row] = ftkeras.predict(run, [picture])
    return measured, dict(row.best)


def numbers(tree) -> list[float]:
    if isinstance(tree, dict):
        return [x for value in tree.values() for x in numbers(value)]
    if isinstance(tree, list):
        return [x for value in tree for x in numbers(value)]
    return [float(tree)] if isinstance(tree, (int, float)) else []


@pytest.fixture(scope="module")
def of_logits(run, tmp_path_factory) -> tuple[dict, dict, str]:
    picture = tmp_path_factory.mktemp("picture") / "light.png"
    Image.new("RGB", (32, 32), (150, 150, 150)).save(picture)
    return *verbs(run, *ENDS[0], str(picture)), str(picture)


@pytest.mark.parametrize(("activation", "units"), ENDS[1:])
def test_evaluate_predict_and_the_report_say_the_same(run, of_logits, activation, units):
    measured, best, picture = of_logits
    assert measured["temperature"] != pytest.approx(1.0, abs=0.05)
    light = 1 / (1 + np.exp(-1 / measured["temperature"]))
    assert best == pytest.approx({"light": light, "dark": 1 - light}, abs=1e-4)
    again, also = verbs(run, activation, units, picture)
    np.testing.assert_allclose(numbers(again), numbers(measured), atol=1e-4)
    assert also == pytest.approx(best, abs=1e-5)
    ftkeras.write_report([run])
    pictures = json.dumps(run.read_json("pictures.json"))
    assert "overlay" in pictures


def test_robustness_counts_the_answers_of_one_unit(run, of_logits):
    shade_model("sigmoid", 1).save(run.path("model.keras"))
    assert ftkeras.robustness(run, examples=None)["clean"] == of_logits[0]["accuracy"]


@pytest.mark.parametrize(("activation", "units"), ENDS)
def test_attacks_and_explanations_know_both_classes(activation, units):
    model = shade_model(activation, units)
    split = Split(
        name="test", ids=["a", "b"], labels=np.array([0, 1], np.int32), classes=2,
        fetch=lambda index: keras.ops.take(
            np.repeat([[[[40]]], [[[220]]]], 32, 1).repeat(32, 2).repeat(3, 3).astype(np.uint8),
            index, axis=0,
        ),
        columns={}, files=["a", "b"],
    )  # fmt: skip
    found = measure_attacked(model, split, ImageInput(int(model.input_shape[1])), [], batch_size=2)
    assert found["clean"]["accuracy"] == 1.0
    explain = grad_cam(model, ending_of(model).logits)
    assert explain is not None
    half = np.zeros((1, 32, 32, 3), np.float32)
    half[:, :16] = 255  # light above
    [heat] = explain(half, np.array([1]))
    np.testing.assert_allclose(heat, np.repeat([[1.0], [1.0], [0.0], [0.0]], 4, axis=1), atol=1e-6)
    assert not explain(half, np.array([0])).any()  # nothing light speaks for dark


def test_an_activation_that_cannot_be_read_is_named(run, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "dark.png")
    shade_model("tanh", 2).save(run.path("model.keras"))
    for verb in (ftkeras.evaluate, lambda it: list(ftkeras.predict(it, [str(tmp_path)]))):
        with pytest.raises(UserError, match="activation tanh, so the outputs are neither"):
            verb(run)
