"""Loggers, each for real and without a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.run import Run
from ftkeras.training.callbacks import loggers
from ftkeras.training.callbacks.loggers import Loggers, check_installed, flatten

SETTINGS = {"seed": 3, "data.input.resize": "crop", "phases.0.learning_rate": 1e-3}
PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.fixture
def run(tmp_path) -> Run:
    (tmp_path / "run").mkdir()
    return Run(str(tmp_path / "run"))


def log(told: Loggers) -> None:
    """What a run of two epochs says."""
    told.figure("train/first_batch", lambda: PICTURE)
    told.on_epoch_end(0, {"loss": 2.0, "val_accuracy": 0.25})
    told.on_epoch_end(1, {"loss": np.float32(1.5), "val_accuracy": 0.5})
    told.figure("test/confusion_matrix", lambda: PICTURE)
    told.result({"test/accuracy": 0.75})
    told.close("finished")


def complain(line: str) -> None:
    pytest.fail(line)


def test_settings_are_flat():
    tree = {"seed": 1, "x": None, "phases": [{"name": "head", "train": ["norm", "bias"]}], "e": {}}
    assert flatten(tree) == {"seed": 1, "phases.0.name": "head", "phases.0.train": "norm, bias"}


def test_a_missing_package_is_said_before_training(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_installed([])
    with pytest.raises(UserError, match="mlflow is not installed.*pip install mlflow"):
        check_installed(["mlflow"])


def test_tensorboard_has_settings_pictures_and_the_result(run):
    log(Loggers(run, (), SETTINGS, complain))
    found: dict[str, tf.compat.v1.Summary.Value] = {}
    files = tf.io.gfile.glob(run.path("logs", "run", "events*"))
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        for value in tf.compat.v1.Event.FromString(record).summary.value:
            found[value.tag] = value
    assert tf.make_ndarray(found["test/accuracy"].tensor) == np.float32(0.75)
    width, height, png = tf.make_ndarray(found["test/confusion_matrix"].tensor)
    assert (int(width), int(height)) == (6, 4)
    np.testing.assert_array_equal(tf.io.decode_png(png), PICTURE)
    assert b"|`data.input.resize`|`crop`|" in tf.make_ndarray(found["config"].tensor).item()
    start = found["_hparams_/session_start_info"].metadata.plugin_data
    assert start.plugin_name == "hparams"
    assert b"phases.0.learning_rate" in start.content


def test_a_logger_that_fails_is_named_once_and_the_run_goes_on(run, monkeypatch):
    class Broken(loggers.TensorBoard):
        def epoch(self, values, step):
            raise ConnectionError("no route to host\nand more")

    monkeypatch.setitem(loggers.LOGGERS, "wandb", Broken)
    monkeypatch.setitem(loggers.LOGGERS, "mlflow", lambda run, settings: 1 / 0)
    said: list[str] = []
    log(Loggers(run, ["wandb", "mlflow"], SETTINGS, said.append))
    assert said == [
        "warning: mlflow failed, the run continues without it: division by zero",
        "warning: wandb failed, the run continues without it: no route to host",
    ]
    assert tf.io.gfile.glob(run.path("logs", "run", "events*"))


def test_a_picture_that_cannot_be_made_is_left_out(run):
    said: list[str] = []
    told = Loggers(run, (), SETTINGS, said.append)
    told.figure("none", lambda: None)
    told.figure("broken", lambda: {}["gone"])
    assert said == ["warning: no figure broken: 'gone'"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_and_biases_offline(run, tmp_path, monkeypatch, capfd):
    wandb = pytest.importorskip("wandb", reason='needs pip install ".[wandb]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    log(Loggers(run, ["wandb"], SETTINGS, complain))
    wandb.teardown()  # as where a process ends: its service has written everything then
    (written,) = Path(run.folder).glob("wandb/offline-run-*")
    identity = run.read_json("loggers.json")["wandb"]
    assert written.name.endswith(identity)
    assert list(written.glob("files/media/images/test/confusion_matrix*.png"))
    (record,) = written.glob("*.wandb")
    content = record.read_bytes()
    for part in (b"phases.0.learning_rate", b"val_accuracy", b"test/accuracy"):
        assert part in content
    log(Loggers(run, ["wandb"], SETTINGS, complain))  # a run that resumes
    wandb.teardown()
    assert run.read_json("loggers.json")["wandb"] == identity
    assert "monotonically" not in capfd.readouterr().err  # nothing was logged out of order


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow_in_files(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason='needs pip install ".[mlflow]"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    log(Loggers(run, ["mlflow"], SETTINGS, complain))
    client = mlflow.MlflowClient()
    identity = run.read_json("loggers.json")["mlflow"]
    kept = client.get_run(identity)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "run"
    assert kept.data.params == {name: str(value) for name, value in SETTINGS.items()}
    assert kept.data.metrics == {"loss": 1.5, "val_accuracy": 0.5, "test/accuracy": 0.75}
    history = client.get_metric_history(identity, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 2.0), (1, 1.5)]
    assert [f.path for f in client.list_artifacts(identity, "test")] == [
        "test/confusion_matrix.png"
    ]
    Loggers(run, ["mlflow"], SETTINGS, complain).close("interrupted")  # a run that resumes
    assert run.read_json("loggers.json")["mlflow"] == identity
    assert client.get_run(identity).info.status == "KILLED"
