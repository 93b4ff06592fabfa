"""Runs that end between the linear probe and the fine-tuned model, and soups of runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.cli.main import main
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.state_file import read_state

SMALL = {"examples": 4, "corruptions": ["contrast"]}


@pytest.fixture(scope="module")
def photos(coloured_photos) -> Path:
    return coloured_photos(["blue", "red"], 15)


def config(photos: Path, section: dict, *overrides: str) -> Config:
    tree = {
        "task": "robust_weights",
        "robust_weights": {**SMALL, **section},
        "data": {"source": "folder", "path": str(photos), "input": {"size": 32}, "batch_size": 8},
        "backbone": {"name": str(photos.with_name("tiny.keras"))},
        "phases": [
            {"name": "head", "train": ["head"], "epochs": 6, "learning_rate": 1e-2},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 1, "learning_rate": 1e-4},
        ],
        "export": {"saved_model": False},
    }
    return parse_config(tree, overrides)


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "wise"
    wanted = config(photos, {"alphas": [0.25, 0.75]}, "training.monitor=val_loss")
    return ftkeras.train(wanted, str(folder))


def kept_weights(run: Run) -> list[tuple[str, np.ndarray]]:
    """The paths and values of a run's model."""
    model = keras.models.load_model(run.path("model.keras"), compile=False, safe_mode=True)
    return [(variable.path, variable.numpy()) for variable in model.weights]


@pytest.mark.slow
def test_the_model_lies_where_the_sweep_is_best(run):
    results = run.read_json("task.json")
    sweep = {row["alpha"]: row for row in results["sweep"]}
    assert list(sweep) == [0.25, 0.75]
    for row in sweep.values():
        assert row["score"] == pytest.approx((row["clean"] + row["corrupted"]) / 2)
    assert sweep[results["alpha"]]["score"] == max(row["score"] for row in sweep.values())
    assert set(results["side_by_side"]) == {"linear probe", "fine-tuned", "chosen"}
    chosen = results["side_by_side"]["chosen"]
    assert chosen["clean"] == run.read_json("evaluation.json")["accuracy"]
    assert not results["recalibrated"]  # batch normalisation was frozen


@pytest.mark.slow
def test_the_weights_are_those_between_probe_and_fine_tuned(run):
    """The backbone of the probe is the pretrained one, whose last block then trained."""
    alpha = run.read_json("task.json")["alpha"]
    assembled = assemble(run.config)
    pretrained = [variable.numpy() for variable in assembled.model.weights]
    best = run.read_json("plan.json")["best_epoch"]
    tuned = read_state(run.path("checkpoints", f"best-{best + 1:04d}.ckpt"))["weights"]
    moved = 0
    for start, end, (path, found) in zip(pretrained, tuned, kept_weights(run), strict=True):
        if "logits" in path or not np.issubdtype(start.dtype, np.floating):
            continue
        np.testing.assert_allclose(found, (1 - alpha) * start + alpha * end, rtol=1e-5, atol=1e-7)
        moved += not np.array_equal(start, end)
    assert moved > 0 or best == 0


@pytest.mark.slow
def test_the_sweep_is_drawn(run):
    page = run.read_text("report.html")
    assert "Validation accuracy between the linear probe and the fine-tuned model" in page
    assert "Side by side on test" in page


def copied(run: Run, folder: Path, shift: float) -> Run:
    """A run whose float weights are a little larger."""
    shutil.copytree(run.folder, folder)
    copy = Run.open(str(folder))
    model = keras.models.load_model(run.path("model.keras"), compile=False)
    for variable in model.weights:
        if variable.dtype == "float32" and "moving" not in variable.path:
            variable.assign(variable + shift)
    model.save(copy.path("model.keras"))
    return copy


@pytest.mark.slow
def test_the_command_line_makes_a_uniform_soup_that_is_a_whole_run(run, tmp_path):
    other = copied(run, tmp_path / "other", 2e-3)
    out = tmp_path / "soup"
    assert main(["soup", run.folder, other.folder, f"--out={out}", "--method=uniform"]) == 0
    soup = Run.open(str(out))
    for (path, value), (_, mean) in zip(kept_weights(run), kept_weights(soup), strict=True):
        if value.dtype == np.float32 and "moving" not in path:
            np.testing.assert_allclose(mean, value + 1e-3, rtol=1e-4, atol=1e-6)
    assert soup.state() == "finished"
    results = soup.read_json("task.json")
    assert list(results["side_by_side"]) == [run.folder, other.folder, "chosen"]
    assert results["shares"] == [0.5, 0.5]
    chosen = results["side_by_side"]["chosen"]
    assert soup.read_json("evaluation.json")["accuracy"] == chosen["clean"]
    assert "Side by side on test" in soup.read_text("report.html")


@pytest.mark.slow
def test_a_greedy_soup_leaves_a_broken_model_out(run, photos, tmp_path):
    broken = copied(run, tmp_path / "broken", 5.0)
    section = {"method": "greedy_soup", "runs": [broken.folder, run.folder]}
    soup = ftkeras.train(config(photos, section, "report=false"), str(tmp_path / "soup"))
    results = soup.read_json("task.json")
    scores = [alone["score"] for alone in results["alone"]]
    assert scores[0] < scores[1]
    assert results["kept"] == [run.folder]
    assert results["shares"] == [0.0, 1.0]
    assert results["side_by_side"]["chosen"] == results["side_by_side"][run.folder]


@pytest.mark.slow
def test_a_soup_refuses_a_run_that_trained_on_its_held_out_images(run, photos, tmp_path):
    other = copied(run, tmp_path / "other", 0.0)
    other.write_text("splits.csv", run.read_text("splits.csv").replace(",test,", ",train,"))
    section = {"method": "uniform_soup", "runs": [run.folder, other.folder]}
    with pytest.raises(UserError, match=r"has trained on 6 of the test images.*split_seed"):
        ftkeras.train(config(photos, section), str(tmp_path / "soup"))
    assert not (tmp_path / "soup").exists()
    other.set_state("failed")
    with pytest.raises(UserError, match="is not finished"):
        ftkeras.train(config(photos, section), str(tmp_path / "soup"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["phases[0].train=all"], "a first phase that trains the head alone"),
        (["data.split={val: null}"], "chooses on a validation split"),
        (["robust_weights.corruptions=[fogg]"], "no corruption 'fogg'"),
    ],
)
def test_what_cannot_work_is_said_before_training(photos, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        ftkeras.train(config(photos, {}, *overrides), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"method": "uniform_soup", "runs": ["a"]}, "two runs or more"),
        ({"method": "greedy_soup", "runs": ["a", "a"]}, "each once"),
        ({"runs": ["a", "b"]}, "runs are for"),
        ({"alphas": [0.5, 0.5]}, "alphas must rise"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(photos, section, message):
    with pytest.raises(UserError, match=message):
        config(photos, section)
