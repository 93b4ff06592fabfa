"""The table of answers, by hand: what stands in it, and which answers are the worst."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from ftkeras.evaluation.answers import write_answers
from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.number import Number
from ftkeras.outputs.one_of import OneOf
from ftkeras.run import Run


def table(path) -> list[list[str]]:
    with open(path) as file:
        return list(csv.reader(file))[1:]


def test_of_classes_the_surest_mistake_comes_first_and_the_surest_right_answer_last(tmp_path):
    run, log9 = Run(str(tmp_path)), 2 * np.log(9.0)  # 0.9 at a temperature of 2
    logits = np.array([[log9, 0], [0, log9], [0, log9 / 2], [log9 / 2, 0]], np.float32)
    answers = Predictions(logits, np.array([0, 0, 0, 0], np.int32), np.array(["a", "b", "c", "d"]))
    save_predictions(run, "test", answers)
    evaluation = {"split": "test", "temperature": 2.0}
    write_answers(run, {"label": OneOf(("cat", "dog"))}, evaluation, final=True)
    assert table(tmp_path / "answers.csv") == [
        ["b", "cat", "dog", "0.900000"],
        ["c", "cat", "dog", "0.750000"],
        ["d", "cat", "cat", "0.750000"],
        ["a", "cat", "cat", "0.900000"],
    ]


def test_several_outputs_have_a_table_each(tmp_path):
    run, ids = Run(str(tmp_path)), np.array(["a", "b", "c"])
    right = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    said = np.array([[2, -2], [-2, -2], [2, -2]], np.float32)
    save_predictions(run, "val-tags", Predictions(said, right, ids))
    ages, said = np.array([[0.0], [1.0]], np.float32), np.array([[0.5], [-1.0]], np.float32)
    save_predictions(run, "val-age", Predictions(said, ages, ids[:2]))
    outputs = {"tags": AnyOf(("red", "wet")), "age": Number(mean=40, scale=10)}
    evaluation = {"split": "val", "heads": {"tags": {"temperature": None}, "age": {}}}
    write_answers(run, outputs, evaluation, final=False)
    assert table(tmp_path / "answers-val-tags.csv") == [
        ["b", "red;wet", "", "2"],
        ["c", "", "red", "1"],
        ["a", "red", "red", "0"],
    ]
    assert table(tmp_path / "answers-val-age.csv") == [
        ["b", "50", "30", "-20"],
        ["a", "40", "45", "5"],
    ]


def test_labels_count_from_their_thresholds_on():
    output = AnyOf(("red", "wet"), thresholds=(0.95, 0.1))
    cells, _ = output.listed(np.array([[1, 0]]), np.array([[2, -2]], np.float32), 1.0)  # .88, .12
    assert cells == {"label": ["red"], "predicted": ["wet"], "wrong": ["2"]}


@pytest.mark.parametrize("output", [OneOf(("a", "b")), AnyOf(("a", "b")), Number()])
def test_of_no_examples_the_table_is_empty(output):
    labels = output.values_of([])
    cells, badness = output.listed(labels, np.zeros((0, output.units), np.float32), 1.0)
    assert (
        not len(badness) and not any(cells.values()) and list(cells)[:2] == ["label", "predicted"]
    )
