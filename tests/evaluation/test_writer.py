"""Predictions on disk, as the standard library reads them back."""

from __future__ import annotations

import csv
import json

import pytest
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.evaluation.predict import FilePrediction
from ftkeras.evaluation.writer import write_predictions
from ftkeras.outputs.one_of import OneOf

DRINK = {"drink": OneOf(("caf\u00e9", "tea"))}
ROWS = [
    FilePrediction("a, b.jpg", DRINK, {"drink": (("caf\u00e9", 0.75), ("tea", 0.25))}),
    FilePrediction("bad.jpg", DRINK, error="empty file"),
]


def test_csv_rows(tmp_path):
    path = tmp_path / "out.csv"
    assert write_predictions(path, ROWS) == (1, 1)
    with open(path, encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["file", "class", "score", "class_2", "score_2", "error"],
            ["a, b.jpg", "caf\u00e9", "0.750000", "tea", "0.250000", ""],
            ["bad.jpg", "", "", "", "", "empty file"],
        ]


def test_json_lines_go_anywhere(tmp_path):
    for path in (str(tmp_path / "out.jsonl"), "ram://predictions.jsonl"):
        assert write_predictions(path, ROWS) == (1, 1)
        with tf.io.gfile.GFile(path) as file:
            assert [json.loads(line) for line in file.read().splitlines()] == [
                {
                    "file": "a, b.jpg",
                    "predictions": [
                        {"class": "caf\u00e9", "score": 0.75},
                        {"class": "tea", "score": 0.25},
                    ],
                },
                {"file": "bad.jpg", "error": "empty file"},
            ]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_an_unwritable_path_is_found_before_anything_is_predicted(tmp_path, format):
    def expensive():
        raise AssertionError("asked before the file was open")
        yield

    with pytest.raises(UserError, match="cannot write .*gone"):
        write_predictions(tmp_path / "gone" / f"out.{format}", expensive())


def test_an_interruption_keeps_what_was_made(tmp_path):
    def interrupted():
        yield ROWS[0]
        raise KeyboardInterrupt

    path = tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, interrupted())
    assert path.read_text(encoding="utf-8").count("\n") == 2


def test_csv_has_columns_for_the_classes_even_after_bad_files(tmp_path):
    path = tmp_path / "out.csv"
    assert write_predictions(path, [ROWS[1], ROWS[1], ROWS[0]]) == (1, 2)
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert header == "file,class,score,class_2,score_2,error"
    assert lines[:2] == ["bad.jpg,,,,,empty file"] * 2


def test_without_a_path_csv_is_printed(capsys):
    write_predictions(None, [FilePrediction("cat.jpg", DRINK, {"drink": (("cat", 1.0),)})])
    assert capsys.readouterr().out == "file,class,score,error\ncat.jpg,cat,1.000000,\n"


def test_an_ending_that_names_no_format_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="out.xlsx' must end in .csv or .jsonl"):
        write_predictions(tmp_path / "out.xlsx", ROWS)
    assert not (tmp_path / "out.xlsx").exists()
