"""Runs on texts: they resume to the bit, on replicas, with XLA and in half precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from ftkeras.cli import main as cli
from ftkeras.config.load import parse_config
from ftkeras.run import Run
from ftkeras.runs.adapt import adapt_backbone
from ftkeras.runs.assemble import assemble
from ftkeras.runs.finished import load_model
from ftkeras.runs.train import train

pytestmark = pytest.mark.slow

VARIED = "data.input={kind: text, length: 12, variation: {drop: 0.3, swap: 0.2}}"
DROPPED = (
    "backbone.recurrent={units: 8, embedding: 8, layers: 1, dropout: 0.2, recurrent_dropout: 0.2}"
)
LANGUAGE = (
    "backbone={name: char_lstm, adapt: {epochs: 1}}",
    "data.input={kind: text, length: 12}",
)


def weights(run: Run) -> list[np.ndarray]:
    return [np.asarray(value) for value in load_model(run).get_weights()]


@pytest.mark.parametrize(
    ("overrides", "stored"),
    [
        pytest.param(["trunk.mode=off", VARIED, DROPPED], [], id="varied, with dropout"),
        pytest.param(["trunk.mode=on"], [True, False], id="from a store"),
        pytest.param(["trunk={mode: on, views: 2}", VARIED], [True, False], id="stored views"),
        pytest.param(["trunk.mode=off", *LANGUAGE], [], id="adapted"),
    ],
)
def test_a_run_that_was_stopped_resumes_to_the_bit(
    text_tree, tmp_path, train_until, overrides, stored
):
    config = parse_config(text_tree, overrides)
    whole = train(config, str(tmp_path / "whole"))
    assert [row["stored"] for row in whole.read_json("plan.json")["trunk"]] == stored
    train_until(8, config, tmp_path / "run")
    assert Run.open(str(tmp_path / "run")).state() == "interrupted"
    resumed = train(config, str(tmp_path / "run"))
    for expected, found in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["bilstm"])
def test_two_replicas_do_what_one_device_does(text_tree, two_replicas, tmp_path, name):
    """Also with Adam on an embedding, of whose gradient a row may come several times."""
    tree = {**text_tree, "head": {"dropout": 0.0}, "trunk": {"mode": "off"}}
    tree["phases"] = [{"name": "all", "train": ["all"], "epochs": 1, "learning_rate": 1e-2}]
    one, two = (
        train(
            parse_config(tree, [f"backbone.name={name}", f"training.strategy={strategy}"]),
            str(tmp_path / strategy),
        )
        for strategy in ("cpu", "mirrored")
    )
    for expected, found in zip(weights(one), weights(two), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "override", "apart"),
    [("gru", "training.jit=true", 1e-4), ("bilstm", "training.precision=mixed_bfloat16", 0.02)],
)
def test_the_step_compiles_with_xla_and_trains_in_half_precision(
    text_tree, tmp_path, name, override, apart
):
    tree = {**text_tree, "trunk": {"mode": "off"}, "head": {"dropout": 0.0}}
    tree["phases"] = [{"name": "all", "train": ["all"], "epochs": 1, "learning_rate": 1e-2}]
    own = [f"backbone.name={name}"]
    try:
        plain = train(parse_config(tree, own), str(tmp_path / "plain"))
        changed = train(parse_config(tree, [*own, override]), str(tmp_path / "changed"))
    finally:
        keras.config.set_dtype_policy("float32")
    [first], [second] = plain.metrics(), changed.metrics()
    assert second["val_loss"] == pytest.approx(first["val_loss"], abs=apart)
    assert second["loss"] != first["loss"] or override == "training.jit=true"


def test_l2_sp_pulls_to_the_adapted_weights(text_tree, tmp_path):
    overrides = [*LANGUAGE, "regularization.l2_sp=0.1"]
    made = assemble(parse_config({**text_tree, "trunk": {"mode": "off"}}, overrides))
    assert made.penalty is not None and made.penalty.anchored
    before = {weight.path: weight.variable.numpy() for weight in made.penalty.anchored}
    adapt_backbone(made, _folder(tmp_path))
    for weight in made.penalty.anchored:
        assert np.abs(weight.variable.numpy() - before[weight.path]).max() > 1e-4
        assert float(weight.variable.regularizer(weight.variable)) == 0.0


def _folder(path: Path) -> Run:
    (path / "run").mkdir()
    return Run(str(path / "run"))


def test_a_run_whose_data_have_moved_resumes(text_tree, tmp_path, train_until, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        shutil.copy(text_tree["data"]["path"], folder)
    tree = {**text_tree, "data": {**text_tree["data"]}, "trunk": {"mode": "off"}}
    tree["data"]["path"] = str(old / Path(text_tree["data"]["path"]).name)
    config, out = parse_config(tree), str(tmp_path / "run")
    train_until(8, config, out)
    shutil.rmtree(old)
    assert cli.main(["train", f"--out={out}"]) == 2
    assert f"If the data of {out} have moved: --set data.path=PATH." in capsys.readouterr().err
    moved = str(new / Path(text_tree["data"]["path"]).name)
    assert cli.main(["train", f"--out={out}", f"--set=data.path={moved}"]) == 0
    run = Run.open(out)
    assert run.state() == "finished" and run.config.data.path == moved
    assert cli.main(["evaluate", out]) == 0
