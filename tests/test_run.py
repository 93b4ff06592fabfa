"""The run folder: created once, written whole, readable anywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import re

import pytest
import tensorflow as tf

from ftkeras.config.load import dump_config, parse_config
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.files import write_whole
from ftkeras.run import Run

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
    with pytest.raises(UserError, match="there is no metrics.jsonl"):
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


@pytest.mark.parametrize("name", ["run", "run/", "runs/run", "runs/of/today/run"])
def test_checking_leaves_nothing_behind(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder in (name, f"{tmp_path}/{name}"):
        Run(folder).check()
        assert not os.listdir(tmp_path)


def test_writing_replaces_a_file_whole(folder):
    run = Run.create(folder, CONFIG)
    run.write_json("plan.json", {"a": 1})
    run.write_json("plan.json", {"b": 2})
    assert json.loads(run.read_text("plan.json")) == {"b": 2}


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        Run.open(str(tmp_path))


def changed(**fields) -> Config:
    return CONFIG.model_copy(update=fields)


def test_a_run_that_is_not_finished_goes_on_and_a_finished_one_does_not(folder):
    assert not Run(folder).resumes(CONFIG)
    run = Run.create(folder, CONFIG)
    for state in ("running", "failed", "interrupted", "preempted"):
        run.set_state(state)
        assert run.resumes(CONFIG) and run.resumes(None)
        assert not run.resumes(changed(seed=1), overwrite=True)
    run.set_state("finished")
    with pytest.raises(UserError, match="already holds a run, which is finished.*--overwrite"):
        run.resumes(None)
    assert not run.resumes(CONFIG, overwrite=True)


def test_a_run_does_not_go_on_with_another_config(folder):
    run = Run.create(folder, CONFIG)
    phases = [dataclasses.replace(CONFIG.phases[0], epochs=2, train=["all"])]
    with pytest.raises(UserError) as error:
        run.resumes(changed(seed=1, phases=phases))
    assert "seed: 0 -> 1; phases[0].epochs: 1 -> 2; phases[0].train: left out -> ['all']." in str(
        error.value
    )


def test_what_no_weight_depends_on_may_change_and_all_if_nothing_was_trained(folder):
    run = Run.create(folder, CONFIG)
    run.set_state("failed", error="the disk is full")
    assert run.resumes(run.changed(["report=false", "export.formats=[onnx]"]))
    assert not run.resumes(run.changed(["seed=1"]))  # nothing is lost: it starts again
    run.log({"epoch": 0})
    with pytest.raises(UserError, match="seed: 0 -> 1. .*data.path, export, report may change"):
        run.resumes(run.changed(["seed=1", "report=false"]))
    assert run.resumes(run.changed(["report=false"]))
    assert (
        run.config == CONFIG
        and run.changed([]) is None
        and Run(f"{folder}/x").changed(["a"]) is None
    )


@pytest.mark.parametrize(
    ("state", "facts", "told"),
    [
        ("failed", {"error": "no disk"}, "the run failed (no disk). `ftkeras train --out="),
        ("interrupted", {}, "the run was interrupted. `ftkeras train --out="),
        ("running", {}, "the run is training, or was killed. `ftkeras train --out="),
        ("finished", {}, "the run was not measured. `ftkeras evaluate "),
    ],
)
def test_a_missing_result_is_told_by_how_the_run_ended(folder, state, facts, told):
    run = Run.create(folder, CONFIG)
    run.set_state(state, **facts)
    with pytest.raises(UserError, match=re.escape(f"no evaluation.json: {told}")):
        run.read_json("evaluation.json")


def test_without_a_config_there_must_be_a_run(folder):
    with pytest.raises(UserError, match="--config is missing, and --out"):
        Run(folder).resumes(None)


@pytest.mark.parametrize("left", [[".lock"], [".lock", ".half-0a1b2c3d-config.yaml"]])
def test_a_process_that_was_killed_at_its_start_is_in_nobodys_way(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("")
    assert not Run(str(tmp_path)).resumes(CONFIG)
    assert Run.create(str(tmp_path), CONFIG).config == CONFIG


def test_a_run_whose_process_was_killed_when_only_its_config_was_written_resumes(folder):
    tf.io.gfile.makedirs(folder)
    run = Run(folder)
    run.write_text("config.yaml", dump_config(CONFIG))
    assert run.resumes(None)
    halves = [run.path(".half-1-plan.json"), run.path("checkpoints", ".half-2-state.ckpt")]
    tf.io.gfile.makedirs(run.path("checkpoints"))
    for half in halves:
        write_whole(half, "of a process that was killed")
    run.begin()
    assert not any(map(tf.io.gfile.exists, halves))
    assert tf.io.gfile.isdir(run.path("checkpoints"))
    assert run.state() == "running" and run.read_json("environment.json")["keras"]


def test_a_run_that_is_replaced_keeps_nothing(folder):
    run = Run.create(folder, CONFIG)
    run.log({"epoch": 0})
    with tf.io.gfile.GFile(run.path("checkpoints", "old.txt"), "w") as file:
        file.write("old")
    Run.create(folder, changed(seed=1), overwrite=True)
    names = {name.rstrip("/") for name in tf.io.gfile.listdir(folder)}
    assert names == {"checkpoints", "config.yaml", "environment.json", "status.json"}
    assert not tf.io.gfile.listdir(run.path("checkpoints"))


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    one, two = Run(str(tmp_path)), Run(str(tmp_path))
    with (
        one.locked(),
        pytest.raises(UserError, match="another process is training there"),
        two.locked(),
    ):
        pass
    with two.locked():
        pass


def test_records_of_epochs_that_come_again_are_dropped(folder):
    run = Run.create(folder, CONFIG)
    run.keep_records(0)  # there is no record yet
    for epoch in range(3):
        run.log({"epoch": epoch})
    run.keep_records(5)
    run.keep_records(2)
    assert list(run.metrics()) == [{"epoch": 0}, {"epoch": 1}]
