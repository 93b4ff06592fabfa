"""The run folder: created once, written whole, readable anywhere."""

from __future__ import annotations

import json
import os

import pytest

from ftkeras.config.load import parse_config
from ftkeras.errors import UserError
from ftkeras.training.run import Run

CONFIG = parse_config(
    {
        "data": {"source": "starter"},
        "backbone": {"name": "MobileNetV2"},
        "phases": [{"name": "a", "epochs": 1, "learning_rate": 0.1}],
    }
)


@pytest.fixture(params=["local", "ram"])
def folder(request, tmp_path) -> str:
    """A folder of the local file system, and one of TensorFlow's in-memory one."""
    return str(tmp_path / "run") if request.param == "local" else f"ram://{tmp_path.name}/run"


def test_a_created_run_opens_with_its_config(folder):
    Run.create(folder, CONFIG)
    run = Run.open(folder)
    assert run.config == CONFIG
    assert run.read_json("status.json")["state"] == "running"
    assert run.read_json("environment.json")["keras"]


def test_records_are_kept_line_by_line(folder):
    run = Run.create(folder, CONFIG)
    run.log({"epoch": 0, "loss": 1.5})
    run.log({"epoch": 1, "loss": 1.0})
    assert list(run.metrics()) == [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 1.0}]


def test_a_run_is_replaced_only_when_told(folder):
    Run.create(folder, CONFIG).log({"epoch": 0})
    with pytest.raises(UserError, match="already holds a run"):
        Run.create(folder, CONFIG)
    run = Run.create(folder, CONFIG, overwrite=True)
    with pytest.raises(UserError, match="has no metrics.jsonl"):
        list(run.metrics())


def test_a_folder_with_other_things_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and not a run"):
        Run.create(str(tmp_path), CONFIG, overwrite=True)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_folder_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        Run.create(str(tmp_path / "file"), CONFIG)
    with pytest.raises(UserError, match="cannot be written"):
        Run.create(str(tmp_path / "file" / "run"), CONFIG)
    assert os.listdir(tmp_path) == ["file"]


def test_checking_leaves_nothing_behind(tmp_path):
    Run(str(tmp_path / "run")).check()
    assert not os.listdir(tmp_path)


def test_writing_replaces_a_file_whole(folder):
    run = Run.create(folder, CONFIG)
    run.write_json("plan.json", {"a": 1})
    run.write_json("plan.json", {"b": 2})
    assert json.loads(run.read_text("plan.json")) == {"b": 2}


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        Run.open(str(tmp_path))
