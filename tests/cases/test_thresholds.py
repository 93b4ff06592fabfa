"""Case 20: the score from which on a label counts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ftkeras.errors import UserError
from ftkeras.evaluation.thresholds import best_thresholds

CONFIG = """\
data: {source: manifest, path: list.csv, input: {size: 16, augmentation: none}, batch_size: 8,
  multi_label: true}
backbone: {name: tiny.keras}
phases: [{name: head, train: [head], epochs: 1, learning_rate: 1e-3}]
trunk: {mode: 'off'}
export: {saved_model: false}
report: false
"""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, prepare, train) -> Path:
    """A folder with a run, `run`, in which an image may have any of two labels."""
    place = tmp_path_factory.mktemp("labelled")
    prepare(place)
    lines = [
        f"photos/{c}/{i}.png,{c if i % 3 else 'cat;dog'}" for c in ("cat", "dog") for i in range(20)
    ]
    (place / "list.csv").write_text("\n".join(["path,label", *lines]))
    (place / "labels.yaml").write_text(CONFIG)
    train(place, "--config=labels.yaml", "--out=run")
    return place


def test_chosen_thresholds_outlive_the_next_evaluation(labelled, ftkeras, monkeypatch):
    """Source: seen on version 0.1. docs/serving.md has a person write them into `evaluation.json`,
    and the next `evaluate` writes that file again without them. The case also allows for a field
    of the config.
    """
    monkeypatch.chdir(labelled)
    chosen = ftkeras("evaluate", "run", "--split=val", "--choose-thresholds=f1")
    assert chosen.status == 0, chosen.err
    assert ftkeras("evaluate", "run").status == 0
    assert ftkeras("export", "run", "--out=served").status == 0
    card = json.loads(Path("served", "1", "assets.extra", "ftkeras.json").read_text())
    assert len(card["thresholds"]) == 2


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl"])
def test_predict_says_which_labels_are_predicted(labelled, ftkeras, monkeypatch, name):
    """Source: seen on version 0.1. The SavedModel's signatures call it `predicted`."""
    monkeypatch.chdir(labelled)
    done = ftkeras("predict", "run", "photos/cat/1.png", f"--out={name}")
    assert done.status == 0, done.err
    with open(name) as file:
        if name.endswith(".csv"):
            [row] = csv.DictReader(file)
        else:
            row = json.loads(file.read())
    assert any("predicted" in column for column in row), list(row)


@pytest.mark.parametrize(
    ("aim", "threshold"),
    [("f1", 0.35), ("precision:1", 0.75), ("precision:0.7", 0.35), ("recall:0.5", 0.75)]
    + [("recall:1", 0.35)],
)
def test_a_threshold_is_the_best_for_its_aim(aim, threshold):
    """By hand: ranked by score, the labels are 1, 1, 0, 1, 0; no example has the second label."""
    labels = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 0]])
    scores = np.array([[0.9, 0.5], [0.8, 0.5], [0.7, 0.5], [0.4, 0.5], [0.3, 0.5]])
    assert best_thresholds(labels, scores, aim) == pytest.approx([threshold, 0.5])


def test_a_threshold_lies_between_scores_however_close():
    scores = np.array([[1 - 1e-8], [1 - 3e-8], [0.5]])
    [level] = best_thresholds(np.array([[1], [0], [0]]), scores, "f1")
    assert scores[1, 0] < level < scores[0, 0]


@pytest.mark.parametrize("text", ['{}', '{"thresholds": [0.5, 0.5]}',
                                  '{"thresholds": {"label": [0.5, 1.5]}}'])  # fmt: skip
def test_thresholds_that_a_person_wrote_wrong_are_refused(labelled, ftkeras, monkeypatch, text):
    monkeypatch.chdir(labelled)
    before = Path("run/thresholds.json")
    kept = before.read_text() if before.exists() else None
    before.write_text(text)
    try:
        done = ftkeras("predict", "run", "photos/cat/1.png")
    finally:
        before.unlink()
        if kept is not None:
            before.write_text(kept)
    assert done.status == 2 and "threshold" in done.err


@pytest.mark.parametrize("aim", ["f2", "precision", "recall:1.5", "f1:0.5", "precision:much"])
def test_an_aim_that_is_none_is_refused(aim):
    with pytest.raises(UserError, match="--choose-thresholds is f1, precision:SHARE"):
        best_thresholds(np.eye(2), np.eye(2), aim)


def test_an_evaluation_counts_by_the_thresholds(labelled, ftkeras, monkeypatch):
    monkeypatch.chdir(labelled)
    assert ftkeras("evaluate", "run", "--split=val", "--choose-thresholds=recall:1").status == 0
    measured = json.loads(ftkeras("evaluate", "run", "--split=val", "--json").out)
    assert all(row["recall"] in (1.0, None) for row in measured["per_class"])
    assert len(measured["thresholds"]) == 2
