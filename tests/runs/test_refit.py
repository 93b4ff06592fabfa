"""Runs that train once more in the end, on training and validation data together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.errors import UserError
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.report.read import read_run
from ftkeras.report.sections.overview import findings
from ftkeras.run import Run
from ftkeras.runs import refit as module
from ftkeras.runs.assemble import assemble


@pytest.fixture(scope="module")
def lights(tmp_path_factory) -> Path:
    """48 images of 32 px, the class by brightness; a quarter validates, a quarter tests."""
    random = np.random.default_rng(0)
    labels = np.arange(48) % 3
    pixels = random.integers(0, 120, (48, 32, 32, 3)) + 60 * labels[:, None, None, None]
    parts = np.array(["train", "train", "val", "test"])[np.arange(48) // 3 % 4]
    arrays = {}
    for part in ("train", "val", "test"):
        arrays |= {f"x_{part}": pixels[parts == part].astype(np.uint8)}
        arrays |= {f"y_{part}": labels[parts == part]}
    path = tmp_path_factory.mktemp("lights") / "data.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def config(lights, tiny_backbone):
    def make(**changes: Any):
        return parse_config(
            {
                "data": {"source": "arrays", "path": str(lights), "batch_size": 8,
                         "input": {"size": 32, "augmentation": "none"}},
                "backbone": {"name": tiny_backbone},
                "phases": [
                    {"name": "head", "train": ["head"], "learning_rate": 1e-3,
                     "until": {"metric": "val_loss", "patience": 1, "max_epochs": 2}},
                    {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2,
                     "learning_rate": 1e-3},
                ],
                "training": {"refit": True, "early_stopping": {"metric": "val_loss"}},
                "export": {"saved_model": False},
                **changes,
            }
        )  # fmt: skip

    return make


@pytest.fixture
def kept(monkeypatch):
    """Makes runs keep what lies half way, whatever validation says."""
    monkeypatch.setattr("ftkeras.runs.floor._BETWEEN", {"half way between": 0.5})


def test_a_run_trains_once_more_on_all_but_the_test_split(config, tmp_path, capsys, kept):
    run = ftkeras.train(config(), str(tmp_path / "run"))
    own, record = Run.open(run.path("refit")), run.read_json("refit.json")
    assert (record["examples"], record["share"]) == (36, 0.5)
    assert f"refit     {record['epochs']} epoch" in capsys.readouterr().out
    assert len(list(own.metrics())) == record["epochs"]
    assert not any("val_loss" in line for line in own.metrics())
    # What decides is of the model that had not seen the split; what is measured is of the last.
    evaluation, val = run.read_json("evaluation.json"), load_predictions(run, "val")
    assert evaluation["split"] == "test" and evaluation["temperature"] == pytest.approx(
        record["temperatures"]["label"]
    )
    model, data = ftkeras.load_run(run.folder).model, assemble(config()).data
    pixels = np.stack([data.splits["val"].fetch(i) for i in range(12)]).astype(np.float32)
    assert not np.allclose(model(pixels), val.logits, atol=1e-4)
    # The floor that it is compared with has seen as much.
    for mine, other in ((run, own), (own, own)):
        floor = load_predictions(mine, "floor-test")
        np.testing.assert_array_equal(floor.logits, load_predictions(other, "floor-test").logits)
    again = ftkeras.evaluate(run)
    assert again["accuracy"] == evaluation["accuracy"] and again["floor"] == evaluation["floor"]
    assert again["temperature"] == pytest.approx(evaluation["temperature"])
    with pytest.raises(UserError, match="was trained on these examples, too"):
        ftkeras.evaluate(run, split="val")
    assert any("trained once more" in str(line) for line in findings(read_run(run.folder)))
    assert "36 training and validation images" in Path(run.path("report.html")).read_text()


def test_a_run_that_stops_in_between_ends_as_if_it_had_not(
    config, tmp_path, monkeypatch, kept, capsys
):
    whole = ftkeras.train(config(report=False), str(tmp_path / "whole"))
    original, calls = module.StopAfter.on_epoch_end, []

    def stop(self, epoch, logs=None):
        calls.append(epoch)
        original(self, epoch, logs)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.StopAfter, "on_epoch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        ftkeras.train(config(report=False), str(tmp_path / "stopped"))
    capsys.readouterr()
    stopped = ftkeras.train(None, str(tmp_path / "stopped"))
    assert len(calls) > 1
    first, second = re.findall("^resumed +(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert first == "after the last epoch; the rest of the run is next"
    assert re.fullmatch(r"epoch \d+, step \d+ of the second training", second)
    for name in ("val", "test", "floor-test"):
        np.testing.assert_array_equal(
            load_predictions(whole, name).logits, load_predictions(stopped, name).logits
        )
    assert whole.read_json("refit.json") == stopped.read_json("refit.json")


def test_if_the_floor_was_kept_it_is_fitted_on_all(config, tmp_path, monkeypatch):
    monkeypatch.setattr("ftkeras.runs.floor._BETWEEN", {"floor": 0.0})
    training = {"refit": True, "monitor": "last_epoch"}
    run = ftkeras.train(config(report=False, training=training), str(tmp_path / "run"))
    assert run.read_json("plan.json")["best_epoch"] == len(list(run.metrics())) - 1
    assert run.read_json("refit.json")["epochs"] == 0
    model, floor = load_predictions(run, "test"), load_predictions(run, "floor-test")
    np.testing.assert_allclose(model.logits, floor.logits, rtol=1e-3, atol=1e-3)
    assert run.read_json("evaluation.json")["floor"]["difference"] == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "few_shot"}, "task few_shot cannot train once more"),
        ({}, "the data have no val split"),
    ],
)
def test_what_cannot_train_once_more_says_so(config, tmp_path, changes, reason):
    section = config().data.model_dump(mode="json")
    changes["data"] = {**section, "split": {"val": None, "test": "test"}}
    changes |= {"training": {"refit": True}, "phases": {"strategy": "linear_probe"}}
    with pytest.raises(UserError, match=reason):
        ftkeras.train(config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
