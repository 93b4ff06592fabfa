"""Case 17: headlines from a test set that is small and lacks classes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

CONFIG = """\
data: {source: manifest, path: list.csv, input: {size: 16, augmentation: none}, batch_size: 8}
backbone: {name: tiny.keras}
phases: [{name: head, train: [head], epochs: 1, learning_rate: 0.1}]
trunk: {mode: 'off'}
export: {saved_model: false}
report: false
"""


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory, prepare, draw, train) -> tuple[Path, str]:
    """A run whose 12 test images are of one class of three, and what it printed.

    It answers "ant" to everything, so it is right on all of the test and on nothing of validation.
    """
    place = tmp_path_factory.mktemp("lopsided")
    prepare(place)
    draw(place, {"ant": 80, "bee": 4, "cat": 1})
    parts = {
        "ant": ["train"] * 68 + ["test"] * 12,
        "bee": ["train", "val", "val", "val"],
        "cat": ["train"],
    }
    lines = [f"{c}/{i}.png,{c},{p}" for c, ps in parts.items() for i, p in enumerate(ps)]
    (place / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    (place / "lopsided.yaml").write_text(CONFIG)
    return place, train(place, "--config=lopsided.yaml", "--out=run")


@pytest.fixture
def run(lopsided, tmp_path, monkeypatch) -> Path:
    """The run in a working folder of the test's own."""
    shutil.copytree(lopsided[0], tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place" / "run"


def test_the_interval_of_all_right_allows_for_luck(lopsided):
    """Source: seen on version 0.1. Of 12 out of 12, Wilson's begins at .757, the exact at .735."""
    evaluation = json.loads((lopsided[0] / "run" / "evaluation.json").read_text())
    if evaluation["accuracy"] != 1 or evaluation["examples"] != 12:
        raise RuntimeError("the run is not what the case is about")
    low, high = evaluation["intervals"]["accuracy"]
    assert 0.7 < low < 0.8
    assert high == pytest.approx(1)


def test_the_interval_of_all_wrong_allows_for_luck(run, ftkeras):
    """Source: seen on version 0.1. Of 0 out of 3, Wilson's ends at .562, the exact at .708."""
    done = ftkeras("evaluate", "run", "--split=val", "--json")
    evaluation = json.loads(done.out)
    if evaluation["accuracy"] != 0 or evaluation["examples"] != 3:
        raise RuntimeError("the run is not what the case is about")
    low, high = evaluation["intervals"]["accuracy"]
    assert low == pytest.approx(0)
    assert 0.5 < high < 0.75


def test_a_bar_on_the_interval_is_not_met_by_a_few_images(run, ftkeras):
    """Source: seen on version 0.1: `--assert 'accuracy.low>=0.99'` passes on 12 images."""
    done = ftkeras("evaluate", "run", "--assert=accuracy.low>=0.99")
    assert done.status == 1, done.out


@pytest.mark.parametrize("verb", ["train", "evaluate", "report"])
def test_the_classes_that_the_test_set_lacks_are_named(lopsided, run, ftkeras, verb):
    """Source: seen on version 0.1: accuracy and macro-F1 of 1.0000 from one class of three."""
    if verb == "report":
        assert ftkeras("report", "run", "--out=page.html").status == 0
        lines = re.findall(r">([^<>]+)<", Path("page.html").read_text())
    else:
        printed = lopsided[1] if verb == "train" else ftkeras("evaluate", "run").out
        lines = printed.splitlines()
    assert any(re.search(r"\bbee\b.*\bcat\b", line) for line in lines), lines[:40]
