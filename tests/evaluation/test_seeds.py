"""Repeating a run with other seeds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.errors import TrainingError, UserError
from ftkeras.evaluation.seeds import format_seeds, repeat, summarize_seeds
from ftkeras.run import Run

ACCURACIES = {7: 0.8, 8: 0.9, 9: 0.85}


@pytest.fixture
def config() -> Config:
    tree = {
        "data": {"source": "starter"},
        "backbone": {"name": "MobileNetV2"},
        "phases": [{"name": "head", "epochs": 1, "learning_rate": 1e-3}],
    }
    return parse_config(tree, ["seed=7"])


def fake_train(config: Config, folder: str) -> Run:
    run = Run.create(folder, config)
    result = {"accuracy": ACCURACIES[config.seed], "auc": None}
    run.write_json("evaluation.json", {**result, "intervals": dict.fromkeys(result)})
    return run


def test_each_seed_is_a_run_of_its_own_and_the_spread_is_kept(config, tmp_path):
    out = tmp_path / "runs"
    summary = repeat(fake_train, config, str(out), 3)
    assert summary == json.loads((out / "seeds.json").read_text())
    assert summary["seeds"] == [7, 8, 9]
    assert list(summary["metrics"]) == ["accuracy"]
    row = summary["metrics"]["accuracy"]
    assert row["values"] == [0.8, 0.9, 0.85]
    assert row["mean"] == pytest.approx(0.85) and row["deviation"] == pytest.approx(0.05)
    assert [Run.open(str(out / f"seed-{seed}")).config.seed for seed in (7, 8, 9)] == [7, 8, 9]
    text = format_seeds(summary)
    assert text.startswith("seeds 7, 8, 9\n")
    assert text.splitlines()[-1].split() == [
        "accuracy",
        "0.8500",
        "0.0500",
        "0.8000",
        "to",
        "0.9000",
    ]


def test_several_heads_are_summarized_by_their_names():
    def evaluation(accuracy: float, r2: float | None) -> dict[str, Any]:
        garment = {"accuracy": accuracy, "intervals": {"accuracy": None}}
        price = {"mae": 2.0, "r2": r2, "intervals": {"mae": None, "r2": None}}
        return {"split": "test", "heads": {"garment": garment, "price": price}}

    metrics = summarize_seeds({0: evaluation(0.8, 0.5), 1: evaluation(0.9, None)})["metrics"]
    assert list(metrics) == ["garment.accuracy", "price.mae"]
    assert metrics["garment.accuracy"]["mean"] == pytest.approx(0.85)


def test_what_was_earned_before_a_failure_is_kept(config, tmp_path):
    def fails_at_nine(config: Config, folder: str) -> Run:
        if config.seed == 9:
            raise TrainingError("diverged")
        return fake_train(config, folder)

    with pytest.raises(TrainingError, match="diverged"):
        repeat(fails_at_nine, config, str(tmp_path / "runs"), 3)
    assert json.loads((tmp_path / "runs" / "seeds.json").read_text())["seeds"] == [7, 8]


def test_nothing_is_trained_where_a_run_is_in_the_way(config, tmp_path):
    fake_train(config, str(tmp_path / "runs" / "seed-7"))
    (tmp_path / "runs" / "seed-7").rename(tmp_path / "runs" / "seed-9")
    with pytest.raises(UserError, match="seed-9: already holds a run"):
        repeat(fake_train, config, str(tmp_path / "runs"), 3)
    assert not (tmp_path / "runs" / "seed-7").exists()
    with pytest.raises(UserError, match="holds a single run"):
        repeat(fake_train, config, str(tmp_path / "runs" / "seed-9"), 2)


def test_one_seed_has_no_spread():
    evaluation = {"accuracy": 0.8, "intervals": {"accuracy": [0.7, 0.9]}}
    summary = summarize_seeds({0: evaluation})
    assert summary["metrics"]["accuracy"]["deviation"] is None
    assert " - " in format_seeds(summary)
