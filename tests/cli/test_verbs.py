"""The command line as it is meant to be used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from ftkeras.cli.main import VERBS, main
from ftkeras.config.load import load_config

LIGHT = ["--set", "export.saved_model=false", "--set", "report=false"]


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_backbone):
    """A working folder with a config on a small array of images."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (24, 32, 32, 3), np.uint8)
    np.savez("small.npz", images=images, labels=np.arange(24) % 2)
    (tmp_path / "c.yaml").write_text(
        "data: {source: arrays, path: small.npz, input: {size: 32}, batch_size: 8}\n"
        f"backbone: {{name: {tiny_backbone}}}\n"
        "phases: [{name: head, epochs: 1, learning_rate: 1e-3}]\n"
    )
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_has_an_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example: ftkeras {verb}" in text
    assert text.isascii()


def test_help_lists_the_verbs_and_needs_no_tensorflow():
    code = (
        "import sys; from ftkeras.cli.main import main; main(['--help']);"
        "print('tf', 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert all(f"  {verb} " in done.stdout for verb in VERBS)
    assert done.stdout.endswith("tf False\n")


def test_backbones_lists_every_one(capsys):
    assert main(["backbones"]) == 0
    text = capsys.readouterr().out
    assert "MobileNetV2 " in text
    assert len(text.splitlines()) > 35


def test_init_writes_a_config_that_loads(place, capsys):
    os.makedirs("photos/cat")
    assert main(["init", "my.yaml", "--data=photos/", "--backbone=ResNet50"]) == 0
    config = load_config("my.yaml")
    assert (config.data.path, config.backbone.name) == (f"{place}/photos", "ResNet50")
    assert "ftkeras doctor --config=my.yaml" in capsys.readouterr().out


def test_plan_shows_a_strategys_phases(place, capsys):
    assert main(["plan", "--config=c.yaml", "--set", "phases={strategy: lp_ft, epochs: 4}"]) == 0
    text = capsys.readouterr().out
    assert "block_3" in text
    assert "- {name: full, epochs: 2, learning_rate: 0.0001, train: [all]" in text


def test_plan_shows_no_phases_where_none_runs(place, capsys):
    heads = ["--set", "task=few_shot", "--set", "few_shot={shots: 2, methods: [logistic]}"]
    assert main(["plan", "--config=c.yaml", *heads]) == 0
    text = capsys.readouterr().out
    assert "no phase runs: task few_shot makes this model without" in text
    assert "block_3" not in text


@pytest.mark.parametrize("condition", ["accuracy=0.9", "acuracy>=0.9"])
def test_a_bar_that_cannot_be_checked_is_refused_before_training(place, capsys, condition):
    assert main(["train", "--config=c.yaml", "--out=run", "--assert", condition]) == 2
    assert "--assert" in capsys.readouterr().err
    assert not (place / "run").exists()


@pytest.mark.slow
def test_from_rate_to_prediction(place, capsys):
    """The one whole run of the suite on a real backbone: with every verb, its report and export."""
    # What `train` exports by itself, runs on the tiny backbone show: here the verb exports.
    real = ["backbone={name: MobileNetV2, weights: starter}", "export.saved_model=false"]
    config = ["--config=c.yaml", *(part for setting in real for part in ("--set", setting))]
    assert main(["lr-find", *config, "--steps=30", "--high=0.1"]) == 0
    assert (place / "lr_find.svg").read_text().startswith("<svg")
    assert main(["train", *config, "--out=run", "--assert", "accuracy>=1.1"]) == 1
    told = capsys.readouterr()
    assert "test accuracy" in told.out  # all was done, and is kept
    assert "--assert does not hold: accuracy>=1.1 (" in told.err
    assert main(["evaluate", "run", "--assert=accuracy>=0", "--assert=accuracy>1"]) == 1
    assert main(["evaluate", "run", "--split=val"]) == 0
    assert "macro-F1" in capsys.readouterr().out
    assert main(["robustness", "run", "--examples=2"]) == 0
    assert "mean corruption accuracy" in capsys.readouterr().out
    assert (place / "run" / "robustness.json").exists()
    assert main(["compare", "run", "run"]) == 0
    assert "The difference is noise" in capsys.readouterr().out
    from PIL import Image

    Image.fromarray(np.zeros((50, 30, 3), np.uint8)).save("black.png")
    assert main(["predict", "run", "black.png", "--out=p.csv", "--top_k=1"]) == 0
    assert (place / "p.csv").read_text().splitlines()[1].startswith("black.png,")
    assert "MobileNetV2" in (place / "run" / "report.html").read_text()
    assert main(["report", "run", "run", "--out=both.html"]) == 0
    assert "2 runs side by side" in (place / "both.html").read_text()
    assert main(["export", "run", "--out=served"]) == 0
    assert (place / "served" / "1" / "saved_model.pb").exists()


@pytest.mark.slow
def test_a_run_is_repeated_with_other_seeds(place, capsys):
    light = [*LIGHT, "--set", "seed=3"]
    assert main(["train", "--config=c.yaml", "--out=runs", "--seeds=2", *light]) == 0
    assert "seeds 3, 4" in capsys.readouterr().out
    summary = json.loads((place / "runs" / "seeds.json").read_text())
    for number, seed in enumerate((3, 4)):
        one = json.loads((place / "runs" / f"seed-{seed}" / "evaluation.json").read_text())
        assert summary["metrics"]["nll"]["values"][number] == one["nll"]
    # The seeds drew other test images.
    assert main(["compare", "runs/seed-3", "runs/seed-4"]) == 2
    assert "tested on different images" in capsys.readouterr().err


@pytest.mark.slow
def test_stored_trunks_are_listed_and_removed(place, capsys, monkeypatch):
    monkeypatch.setenv("FTKERAS_CACHE", str(place / "cache"))
    plain = [*LIGHT, "--set", "data.input.augmentation=none"]
    on = ["--config=c.yaml", "--out=r", "--set", "trunk.mode=on", "--profile"]
    assert main(["train", *on, *plain]) == 0
    _check_profile(capsys.readouterr().out, place / "r" / "trace.json")
    assert main(["cache"]) == 0
    assert "16 train images, 32 px" in capsys.readouterr().out
    assert main(["cache", "--max_mb=0"]) == 0
    told = capsys.readouterr().out
    assert ": 0\n" in told and "also in" not in told
    [removed] = re.findall(r"removed (\d+), ", told)
    assert int(removed) > 3  # the trunks of three splits, and the floor at least


def _check_profile(printed, trace):
    """Every second has a name: the rows add up, and `fit` is divided."""
    lines = printed.split("cores busy\n")[1].splitlines()[1:]
    found = filter(None, (re.match(r"(.+?)  +([0-9.]+) s", line) for line in lines))
    clock = {row[1]: float(row[2]) for row in found}
    whole = clock.pop("all")
    assert sum(clock.values()) == pytest.approx(whole, rel=0.05)
    known = {"run the trunk", "train", "validate", "evaluate", "find and check the data"}
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert known < names
    assert "first step of a phase: trace and compile" in names
