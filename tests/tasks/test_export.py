"""Exports of a run: which formats, with what inside, and what is left of them in the run."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.cli.main import main
from ftkeras.config.load import parse_config
from ftkeras.run import Run

pytestmark = pytest.mark.slow

EVALUATION = {
    "split": "test",
    "accuracy": 0.75,
    "intervals": {"accuracy": [0.5, 0.9]},
    "temperature": 2.0,
}


@pytest.fixture
def run(tmp_path) -> Run:
    """What a finished run leaves that an export needs; the model tells light from dark."""
    shades = np.array([20, 230] * 20, np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (40, 32, 32, 3))
    np.savez(tmp_path / "shades.npz", images=images, labels=np.arange(40) % 2)
    data = {
        "source": "arrays",
        "path": str(tmp_path / "shades.npz"),
        "class_names": ["dark", "light"],
        "input": {"size": 32},
    }
    phases = [{"name": "head", "epochs": 1, "learning_rate": 1e-3}]
    backbone = {"name": "MobileNetV2", "weights": "none"}
    config = parse_config({"data": data, "backbone": backbone, "phases": phases})
    run = Run.create(str(tmp_path / "a run"), config)
    image = keras.Input((32, 32, 3))
    mean = keras.layers.GlobalAveragePooling2D(name="head_pool")(image)
    logits = keras.layers.Dense(2, name="logits")
    model = keras.Model(image, logits(mean))
    logits.set_weights([np.array([[-1, 1]] * 3) / 300, np.array([1.27, -1.27])])
    model.save(run.path("model.keras"))
    facts = {"class_names": data["class_names"], "multi_label": False, "image_size": 32}
    run.write_json("data.json", facts)
    run.write_json("evaluation.json", EVALUATION)
    return run


def test_a_run_is_exported_with_its_temperature_and_name(run, capsys):
    assert main(["export", run.folder, "--assert", "accuracy.low>=0.5"]) == 0
    path = run.path("export", "1")
    told = capsys.readouterr()
    assert told.out == f"{path}\n"  # for programs; people read the rest
    assert "compared    with the Keras model; in a fresh process" in told.err
    assert re.search(r"difference  at most \S+e-\d\d \(saved_model; 0.0001 is allowed\)", told.err)
    assert "signatures  examples, features, images, serving_default" in told.err
    assert f"sh '{run.path('export', 'serving', 'serve.sh')}'" in told.err
    assert re.search(r"size        \d+\.\d MB", told.err)
    served = tf.saved_model.load(path).signatures["images"]
    said = served(images=tf.fill((1, 32, 32, 3), 227.0))
    # The logits are -1 and 1, divided by two.
    expected = np.exp([0.5, -0.5]) / np.exp([0.5, -0.5]).sum()
    np.testing.assert_allclose(said["scores"][0], expected, atol=1e-5)
    assert said["class_names"].numpy().tolist() == [[b"light", b"dark"]]
    certificate = run.read_json("certificate.json")
    assert list(certificate) == ["saved_model"]
    assert certificate["saved_model"]["path"] == path
    assert 'name: "a_run"' in run.read_text("export/serving/models.config")


def test_other_formats_join_it(run, capsys):
    assert main(["export", run.folder, "--format=openvino"]) == 0
    assert main(["export", run.folder, "--format=onnx", "--format=openvino"]) == 0
    paths = [run.path("export", "onnx", "1"), run.path("export", "openvino", "2")]
    assert capsys.readouterr().out.splitlines()[1:] == paths
    certificate = run.read_json("certificate.json")
    assert {name: own["path"] for name, own in certificate.items()} == {
        "openvino": paths[1], "onnx": paths[0]
    }  # fmt: skip
    assert certificate["onnx"]["keras_accuracy"] == 1.0
    assert certificate["onnx"]["test_images"] == 6  # 15% of forty
    assert certificate["onnx"]["onnx"]["accuracy_drop"] == 0.0
    assert not tf.io.gfile.exists(run.path("export", "1"))


@pytest.mark.parametrize(
    ("condition", "status", "told"),
    [
        ("accuracy>=0.8", 1, "does not hold: accuracy>=0.8 (0.7500)"),
        ("acuracy>=0.8", 2, "Did you mean 'accuracy'"),
    ],
)
def test_below_a_bar_nothing_is_exported(run, capsys, condition, status, told):
    assert main(["export", run.folder, "--assert", condition]) == status
    assert told in capsys.readouterr().err
    assert not tf.io.gfile.exists(run.path("export"))


def test_a_format_that_there_is_not(run, capsys):
    assert main(["export", run.folder, "--format=onyx"]) == 2
    assert "onyx" in capsys.readouterr().err
