"""Few-shot runs on small folders of real image files."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.evaluation.predict import predict_outputs
from ftkeras.runs import build
from ftkeras.tasks.few_shot import task
from ftkeras.tasks.few_shot.features import unit_features
from ftkeras.tasks.few_shot.probes import draw, fit_head, stratified_folds


@pytest.fixture(scope="module")
def photos(coloured_photos) -> Path:
    return coloured_photos(["blue", "green", "red"], 60)


def config(photos: Path, section: dict, *overrides: str) -> Config:
    tree = {
        "task": "few_shot",
        "few_shot": {"shots": 4, "draws": 3, **section},
        "data": {"source": "folder", "path": str(photos), "input": {"size": 32}, "batch_size": 8},
        "backbone": {"name": str(photos.with_name("tiny.keras"))},
        "phases": [{"name": "head", "train": ["head"], "epochs": 2, "learning_rate": 1e-2}],
        "export": {"saved_model": False},
        "report": False,
    }
    return parse_config(tree, overrides)


HEADS = {"methods": ["logistic", "cosine", "nearest_mean"]}


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "few"
    wanted = config(photos, HEADS, "export.saved_model=true", "report=true")
    return ftkeras.train(wanted, str(folder))


@pytest.mark.slow
def test_the_kept_model_is_the_method_that_was_chosen(run):
    """The exported graph answers as the head does that is fitted here once more."""
    data = build.data(run.config)
    pool, test = data.splits["train"], data.splits["test"]
    chosen = draw(pool.labels, 4, seed=0, turn=0)
    features = unit_features(build.backbone(run.config, data), 2)
    feed = build.feed(run.config, data, ftkeras.load_model(run))
    support = predict_outputs(features, feed.plain("train"), "")[0][chosen]
    labels = pool.labels[chosen]
    folds = list(stratified_folds(labels, 4, seed=0))
    results = run.read_json("task.json")
    head, _ = fit_head(results["choice"], support, labels, 3, folds)
    expected = head(predict_outputs(features, feed.plain("test"), "")[0])
    model = keras.models.load_model(run.path("model.keras"), compile=False, safe_mode=True)
    found = predict_outputs(model, feed.plain("test"), "")[0]
    ratio = expected.std() / found.std()  # the temperature
    assert found * ratio == pytest.approx(expected, abs=1e-3 * float(np.abs(expected).max()))
    first = results["methods"][results["choice"]]["accuracies"][0]
    assert first == run.read_json("evaluation.json")["accuracy"]
    assert len(test) == run.read_json("evaluation.json")["examples"]


@pytest.mark.slow
def test_results_are_kept_and_reported(run):
    results = run.read_json("task.json")
    assert list(results["methods"]) == HEADS["methods"]
    assert len(results["choices"]) == 3
    for found in [*results["methods"].values(), results["selected"]]:
        low, high = found["interval"]
        assert 0.0 <= low <= found["mean"] <= high <= 1.0
        assert found["mean"] == pytest.approx(np.mean(found["accuracies"]))
    losses = {name: found["held_out_log_loss"] for name, found in results["methods"].items()}
    assert results["choice"] == min(losses, key=losses.get)
    assert "Few-shot methods" in run.read_text("report.html")
    assert run.read_json("data.json")["examples"] == {"train": 12, "test": 9}
    assert run.read_json("plan.json")["phases"] == []  # nothing was trained by steps
    assert run.read_json("certificate.json")["saved_model"]


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(run, photos, tmp_path, monkeypatch):
    wanted, calls = config(photos, HEADS), []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit_head(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(task, "fit_head", interrupted)
        ftkeras.train(wanted, str(tmp_path / "run"))
    again = ftkeras.train(None, str(tmp_path / "run"))
    assert again.read_json("task.json") == run.read_json("task.json")


@pytest.mark.slow
def test_phases_are_validated_on_each_fold_and_kept_when_chosen(photos, tmp_path):
    section = {"shots": 2, "methods": ["phases", "nearest_mean"], "draws": 2, "stages": 1}
    run = ftkeras.train(config(photos, section), str(tmp_path / "run"))
    found = run.read_json("task.json")["methods"]
    assert len(found["phases"]["accuracies"]) == 1
    assert len(found["nearest_mean"]["accuracies"]) == 2
    assert 0 < found["phases"]["held_out_log_loss"] < 10
    assert not (tmp_path / "run" / "scratch").exists()
    assert not list((tmp_path / "run").glob("answers_of_*"))
    assert {record["phase"] for record in run.metrics()} == {"head"}
    choice = run.read_json("task.json")["choice"]
    assert run.read_json("evaluation.json")["accuracy"] == found[choice]["accuracies"][0]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"shots": 15}, "15 examples per class, but 'blue' has only 14"),
        ({"stages": 6, **HEADS}, "fewer than 6"),
    ],
)
def test_what_cannot_work_is_said_before_training(photos, tmp_path, section, message):
    with pytest.raises(UserError, match=message):
        ftkeras.train(config(photos, section), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_method_that_is_named_twice_is_refused(photos):
    with pytest.raises(UserError, match="'cosine' is given twice"):
        config(photos, {"methods": ["cosine", "cosine"]})
