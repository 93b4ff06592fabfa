"""Whole runs on small folders of real image files."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.errors import TrainingError, UserError
from ftkeras.evaluation.predictions import load_predictions, save_predictions
from ftkeras.measures.calibration import fit_temperature
from ftkeras.runs import task, train
from ftkeras.runs.assemble import assemble

pytestmark = pytest.mark.slow

LIGHT = ["export.saved_model=false", "report=false"]
COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}


def photo(colour: tuple[int, int, int], seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 25, (48, 40, 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir()
        for i in range(20):
            photo(colour, 100 * number + i).save(folder / name / f"{i}.jpg")
    return folder


Configure = Callable[..., Config]


@pytest.fixture(scope="module")
def config(tiny_backbone) -> Configure:
    """A function that returns a config on some data, with overrides."""
    return functools.partial(configure, tiny_backbone)


def configure(backbone: str, data: dict, *overrides: str) -> Config:
    tree = {
        "seed": 1,  # on the edge of nothing: of five seeds, 0 alone gets one test image wrong
        "data": {"input": {"size": 32, "augmentation": "light"}, "batch_size": 8, **data},
        "backbone": {"name": backbone},
        "phases": [
            {"name": "head", "train": ["head"], "epochs": 4, "learning_rate": 1e-2},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 1, "learning_rate": 1e-4},
        ],
    }
    return parse_config(tree, overrides)


@pytest.fixture(scope="module")
def run(photos, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "photos"
    return ftkeras.train(config({"source": "folder", "path": str(photos)}), str(folder))


def test_a_run_leaves_all_that_it_knew_and_made(run):
    for name in ("config.yaml", "environment.json", "bad_files.csv", "splits.csv", "model.keras"):
        assert tf.io.gfile.exists(run.path(name)), name
    assert tf.io.gfile.glob(run.path("checkpoints", "best-000?.ckpt"))
    assert tf.io.gfile.exists(run.path("checkpoints", "last.weights.h5"))
    assert tf.io.gfile.glob(run.path("logs", "train", "events*"))
    assert tf.io.gfile.exists(run.path("export", "1", "saved_model.pb"))
    certificate = run.read_json("certificate.json")["saved_model"]
    assert certificate["temperature"] == run.read_json("evaluation.json")["temperature"] != 1
    assert certificate["class_names"] == list(COLOURS)
    assert run.read_json("status.json")["state"] == "finished"
    assert "photos" in run.read_text("report.html")
    assert all("peak_memory_mb" in record for record in run.metrics())
    records = list(run.metrics())
    assert [(r["epoch"], r["phase"]) for r in records] == [
        (0, "head"), (1, "head"), (2, "head"), (3, "head"), (4, "top")
    ]  # fmt: skip
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"} <= set(
        records[0]
    )


def test_it_learns_three_colours(run):
    assert run.read_json("evaluation.json")["accuracy"] >= 8 / 9


def test_what_ran_is_what_was_planned(run):
    plan = run.read_json("plan.json")
    assert [phase["name"] for phase in plan["phases"]] == list(plan["audit"])
    for phase in plan["phases"]:
        verdict = plan["audit"][phase["name"]]
        assert verdict["trained"] == sum(block["tensors"] for block in phase["blocks"])
        assert not verdict["drifted"]
    assert len({phase["steps"] for phase in plan["phases"]}) == 2


def test_splits_are_stratified_and_recorded(run):
    rows = list(csv.DictReader(run.read_text("splits.csv").splitlines()))
    assert len(rows) == 60
    for split, count in {"train": 14, "val": 3, "test": 3}.items():
        for colour in COLOURS:
            found = [r for r in rows if r["split"] == split and r["label"] == colour]
            assert len(found) == count


def test_the_saved_model_file_loads_without_ftkeras_objects(run, photos):
    model = keras.models.load_model(run.path("model.keras"), compile=False, safe_mode=True)
    images = np.stack([np.array(photo(c, 7).resize((32, 32))) for c in COLOURS.values()])
    assert model.predict(images.astype("float32"), verbose=0).argmax(axis=-1).tolist() == [0, 1, 2]
    assert getattr(model, "optimizer", None) is None


def test_evaluating_again_gives_the_recorded_result(run):
    recorded = run.read_json("evaluation.json")
    again = ftkeras.evaluate(run, recorded["split"])
    assert again.keys() == recorded.keys()
    for name in ("accuracy", "auc", "nll", "temperature"):
        assert again[name] == pytest.approx(recorded[name], abs=1e-5), name
    with pytest.raises(UserError, match="only train, val, test"):
        ftkeras.evaluate(run, "holdout")


def test_the_answers_are_kept_and_the_temperature_is_that_of_validation(run):
    recorded, test = run.read_json("evaluation.json"), load_predictions(run, "test")
    rows = [r for r in csv.DictReader(run.read_text("splits.csv").splitlines())]
    assert test.ids.tolist() == [row["id"] for row in rows if row["split"] == "test"]
    assert test.logits.shape == (9, 3) and test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert np.mean(test.logits.argmax(axis=1) == test.labels) == recorded["accuracy"]
    val = load_predictions(run, "val")
    assert recorded["temperature"] == fit_temperature(val.labels, val.logits)


def test_predictions_are_scaled_by_the_temperature(run, photos, monkeypatch):
    monkeypatch.setattr(task, "temperatures_of", lambda *_: {"label": 1000.0})
    flat = next(ftkeras.predict(run, [str(photos / "red" / "0.jpg")]))
    assert flat.best[0][1] == pytest.approx(1 / 3, abs=0.02)


def test_predictions_name_the_class(run, photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    files = [str(photos / "red" / "0.jpg"), str(tmp_path / "broken.jpg")]
    good, bad = ftkeras.predict(run, files, top_k=2)
    assert good.best[0][0] == "red"
    assert len(good.best) == 2
    assert bad.error


def test_the_same_seed_gives_the_same_weights(photos, config, tmp_path):
    def weights(name: str, seed: int) -> list[np.ndarray]:
        overrides = [f"seed={seed}", "phases[0].epochs=1", *LIGHT]
        run = ftkeras.train(
            config({"source": "folder", "path": str(photos)}, *overrides), str(tmp_path / name)
        )
        return keras.models.load_model(run.path("model.keras"), compile=False).get_weights()

    first, second, other = weights("a", 1), weights("b", 1), weights("c", 2)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert not np.allclose(first[-2], other[-2], atol=1e-3)


def test_several_labels_an_image(photos, config, tmp_path):
    rows = ["path,label,camera"]
    for name in COLOURS:
        for i in range(20):
            rows.append(
                f"{photos / name / f'{i}.jpg'},{name};{'warm' if name == 'red' else 'cold'},{i % 2}"
            )
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    data = {"source": "manifest", "path": str(tmp_path / "photos.csv"), "multi_label": True}
    # Of nine test images each is worth a tenth of F1: without augmentation all seeds get all right.
    data["input"] = {"size": 32, "augmentation": "none"}
    run = ftkeras.train(config(data, "phases[0].epochs=8", *LIGHT), str(tmp_path / "run"))
    assert run.read_json("data.json")["class_names"] == ["blue", "cold", "green", "red", "warm"]
    evaluation = run.read_json("evaluation.json")
    assert evaluation["macro_f1"] > 0.9
    assert sum(row["n"] for row in evaluation["slices"]["camera"].values()) == 9
    with pytest.raises(UserError, match="cross_entropy is for one label"):
        assemble(config(data, "loss.name=cross_entropy"))


def test_a_report_is_made_again_with_what_it_needs(run):
    answers = load_predictions(run, "test")
    # As if it had been wrong about each image, of which the page then shows pictures.
    save_predictions(run, "test", dataclasses.replace(answers, logits=-answers.logits))
    tf.io.gfile.remove(run.path("pictures.json"))
    try:
        assert ftkeras.write_report([run]) == run.path("report.html")
    finally:
        save_predictions(run, "test", answers)
    assert run.read_json("pictures.json")["test"].keys() == set(answers.ids)
    with pytest.raises(UserError, match=r"--out no/such/folder/x.html: cannot be written"):
        ftkeras.write_report([run], "no/such/folder/x.html")


def test_a_run_is_whole_without_its_report(photos, config, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise ValueError("no ink")

    monkeypatch.setattr(train, "write_page", fails)
    data = {"source": "folder", "path": str(photos)}
    short = ["phases[0].epochs=1", *LIGHT]
    run = ftkeras.train(config(data, *short, "report=true"), str(tmp_path / "run"))
    assert run.read_json("status.json")["state"] == "finished"
    assert "there is no report: ValueError: no ink" in capsys.readouterr().out
    quiet = ftkeras.train(config(data, *short), str(tmp_path / "quiet"))
    assert "report" not in capsys.readouterr().out
    assert not tf.io.gfile.exists(quiet.path("report.html"))


def test_a_run_in_a_remote_file_system(photos, config):
    data = {"source": "folder", "path": str(photos)}
    run = ftkeras.train(config(data, "phases[0].epochs=1"), "ram://bucket/run")
    assert run.read_json("status.json")["state"] == "finished"
    assert tf.io.gfile.exists("ram://bucket/run/model.keras")
    assert tf.io.gfile.exists("ram://bucket/run/export/1/saved_model.pb")


def test_a_failure_is_recorded_and_what_was_earned_stays(photos, config, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftkeras.runs.task.export_run", full_disk)
    with pytest.raises(TrainingError, match="no space is left"):
        ftkeras.train(config({"source": "folder", "path": str(photos)}), str(tmp_path / "r"))
    status = json.loads((tmp_path / "r" / "status.json").read_text())
    assert status["state"] == "failed"
    assert "no space is left" in status["error"]
    assert (tmp_path / "r" / "model.keras").exists()
    assert (tmp_path / "r" / "evaluation.json").exists()
