"""Case 26: what people look for and do not find."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

import ftkeras as library
from ftkeras.console import kept_back, silenced


def test_a_run_is_evaluated_on_new_labelled_images(place, ftkeras, draw):
    """Source: seen on version 0.1: `evaluate RUN --data=NEW/`."""
    draw(Path("new"), {"cat": 3, "dog": 4})
    before = Path("first run", "evaluation.json").read_text()
    done = ftkeras("evaluate", "first run", "--data=new/", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["examples"] == 7
    assert Path("first run", "evaluation.json").read_text() == before
    results = json.loads(done.out)
    assert results["temperature"] == json.loads(before)["temperature"]
    table = Path("first run", "answers-new.csv").read_text().splitlines()
    rows = {row["id"]: row for row in csv.DictReader(table)}
    expected = library.predict(library.Run.open("first run"), [f"new/{name}" for name in rows])
    assert [row["predicted"] for row in rows.values()] == [row.best[0][0] for row in expected]
    right = sum(row["predicted"] == row["label"] for row in rows.values())
    assert results["accuracy"] == pytest.approx(right / 7)


def test_a_table_of_new_examples_may_lack_a_class_and_have_parts(place, ftkeras):
    rows = [f"photos/dog/{i}.png,dog,{part}" for i, part in enumerate(["test", "test", "train"])]
    Path("list.csv").write_text("\n".join(["path,label,split", *rows]))
    done = ftkeras("evaluate", "first run", "--data=list.csv", "--json")
    assert done.status == 0, done.err
    results = json.loads(done.out)
    assert results["examples"] == 2
    assert [row["support"] for row in results["per_class"]] == [0, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [("nowhere", "no folder or file 'nowhere'"), ("new", "no class 'dgo'. Did you mean 'dog'")],
)
def test_new_examples_that_do_not_fit_are_refused(place, ftkeras, draw, data, message):
    draw(Path("new"), {"cat": 1, "dgo": 1})
    done = ftkeras("evaluate", "first run", f"--data={data}")
    assert done.status == 2
    assert message in done.err


def test_macro_f1_can_tell_the_best_epoch(place, ftkeras):
    """Source: seen on version 0.1: `training.monitor: val_macro_f1`."""
    monitor = "--set=training.monitor=val_macro_f1"
    done = ftkeras("train", "--config=c.yaml", "--out=second", monitor)
    assert done.status == 0, done.err
    [record] = map(json.loads, Path("second", "metrics.jsonl").read_text().splitlines())
    assert 0 <= record["val_macro_f1"] <= 1


def test_every_test_answer_is_in_a_table_with_the_wrong_ones_first(place, ftkeras):
    """Source: seen on version 0.1: `answers.csv`. The case leaves the columns' names open."""
    assert ftkeras("evaluate", "first run").status == 0
    path, evaluation = Path("first run", "answers.csv"), Path("first run", "evaluation.json")
    assert path.exists(), sorted(file.name for file in path.parent.iterdir())
    with path.open() as file:
        rows = list(csv.DictReader(file))
    examples = json.loads(evaluation.read_text())["examples"]
    with Path("first run", "splits.csv").open() as file:
        tested = {row["id"]: row["label"] for row in csv.DictReader(file) if row["split"] == "test"}
    assert {row["id"]: row["label"] for row in rows} == tested
    wrong = [row["predicted"] != row["label"] for row in rows]
    assert len(wrong) == examples
    assert wrong == sorted(wrong, reverse=True)
    before = path.read_bytes()
    assert ftkeras("evaluate", "first run", "--split=val").status == 0
    assert path.read_bytes() == before  # the table of the test split, as `evaluation.json`
    assert Path("first run", "answers-val.csv").exists()


def test_a_run_is_used_from_python(place):
    """Source: seen on version 0.1: `model.keras` returns logits, which nothing says."""
    files = ["photos/cat/0.png", "photos/dog/0.png"]
    expected = [row.best for row in library.predict(library.Run.open("first run"), files)]
    found = [row.best for row in library.load_run("first run").predict(files)]
    assert found == expected
    assert all(sum(score for _, score in best) == pytest.approx(1) for best in found)
    Path("broken.png").write_bytes(b"no image")
    [row] = library.load_run("first run").predict(["broken.png"])
    with pytest.raises(library.UserError, match=f"broken.png: {row.error}"):
        row.best  # noqa: B018 (it raises)
    with pytest.raises(library.UserError, match="not a run folder"):
        library.load_run("photos")


def test_predict_takes_names_from_standard_input(place, ftkeras, monkeypatch):
    """Source: seen on version 0.1: `predict -`."""
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"photos/cat/0.png\nphotos/dog/1.png\n"))
    )
    done = ftkeras("predict", "first run", "-")
    assert done.status == 0, done.err
    rows = list(csv.DictReader(done.out.splitlines()))
    assert [row["file"] for row in rows] == ["photos/cat/0.png", "photos/dog/1.png"]
    assert not any(row["error"] for row in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n", "standard input is empty"), (b"\xff\xfe", "is not a list of names")],
)
def test_standard_input_without_names_is_refused(place, ftkeras, monkeypatch, content, message):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    done = ftkeras("predict", "first run", "-")
    assert done.status == 2
    assert message in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config=c.yaml", "--out=second"],
        ["predict", "first run", "photos", "--out=answers.csv"],
    ],
    ids=["train", "predict"],
)
def test_quiet_prints_nothing(place, ftkeras, arguments):
    """Source: seen on version 0.1: `--quiet`."""
    done = ftkeras(*arguments, "--quiet")
    assert done.status == 0, done.err
    assert not done.out + done.err


def test_quiet_leaves_results_and_errors(place, ftkeras):
    done = ftkeras("predict", "first run", "photos/cat/0.png", "--quiet")
    assert done.status == 0 and not done.err
    assert done.out.startswith("file,class,score")
    done = ftkeras("train", "--config=c.yaml", "--out=first run", "--quiet")
    assert done.status == 2 and not done.out
    assert "already holds a run" in done.err


def test_quiet_silences_what_is_not_python(capfd):
    with silenced(1, 2):
        os.write(1, b"from C")
        os.write(2, b"from C")
        print("from Python")
    with pytest.raises(ValueError), kept_back(2):
        os.write(2, b"shown, as it failed")
        raise ValueError
    assert capfd.readouterr() == ("", "shown, as it failed")
