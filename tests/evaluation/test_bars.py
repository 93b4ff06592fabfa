from __future__ import annotations

import numpy as np
import pytest

from ftkeras.errors import TrainingError, UserError
from ftkeras.evaluation.bars import Bar, check_metrics, measured, parse_bars, require
from ftkeras.measures.results import evaluate_predictions
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.number import Number
from ftkeras.outputs.one_of import OneOf

NAMES = ["cat", "dog", "st. bernard"]
ONE, ANY = {"pet": OneOf(tuple(NAMES))}, {"pet": AnyOf(tuple(NAMES))}
RESULTS = evaluate_predictions(np.array([0, 0, 1, 1]), np.eye(3)[[0, 1, 1, 1]], NAMES)


def test_expressions_are_read_as_people_write_them():
    assert parse_bars(["accuracy>=0.85", " loss < 1e-1 ", "per_class.st. bernard.f1>.5"]) == [
        Bar("accuracy", ">=", 0.85),
        Bar("loss", "<", 0.1),
        Bar("per_class.st. bernard.f1", ">", 0.5),
    ]


@pytest.mark.parametrize(
    "expression", ["accuracy", "accuracy>=", ">=0.5", "accuracy=0.5", "accuracy>=nan", "a>=b", ""]
)
def test_what_is_no_condition_is_refused(expression):
    with pytest.raises(UserError, match="expected METRIC"):
        parse_bars([expression])


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("accuracy>=0.75", True),  # three of four are right
        ("accuracy>0.75", False),
        ("accuracy<=0.75", True),
        ("accuracy<0.75", False),
        ("examples>=4", True),
        ("accuracy.low>=0.75", False),
        ("accuracy.high>=0.75", True),
        ("per_class.cat.recall>=0.5", True),
        ("per_class.dog.precision>=0.7", False),
        ("per_class.st. bernard.support<=0", True),
        ("per_class.st. bernard.recall>=0", False),  # undefined: there is none
    ],
)
def test_a_bar_holds_or_does_not(expression, holds):
    (bar,) = parse_bars([expression])
    assert bar.holds(measured(RESULTS)[bar.metric]) == holds
    if holds:
        require([bar], RESULTS)
    else:
        with pytest.raises(TrainingError, match="does not hold"):
            require([bar], RESULTS)


def test_every_bar_that_is_missed_is_named_with_its_value():
    bars = parse_bars(["accuracy>=0.9", "macro_f1>=0", "per_class.dog.precision>=0.7"])
    with pytest.raises(TrainingError) as error:
        require(bars, RESULTS)
    assert "accuracy>=0.9 (0.7500), per_class.dog.precision>=0.7 (0.6667)" in str(error.value)
    assert "macro_f1" not in str(error.value)


def test_an_unknown_metric_is_refused_before_anything_is_measured():
    check_metrics(parse_bars(["accuracy>=0.5", "accuracy.low>=0.4"]), ONE)
    check_metrics(parse_bars(["mean_average_precision>=0.5"]), ANY)
    with pytest.raises(UserError, match="Did you mean 'accuracy'"):
        check_metrics(parse_bars(["acuracy>=0.5"]), ONE)
    with pytest.raises(UserError, match="'mean_average_precision' is measured"):
        check_metrics(parse_bars(["mean_average_precision>=0.5"]), ONE)
    with pytest.raises(UserError, match="per_class.cow.f1"):
        check_metrics(parse_bars(["per_class.cow.f1>=0.5"]), ONE)
    several = {"pet": ONE["pet"], "age": Number(10.0, 2.0)}
    check_metrics(parse_bars(["pet.accuracy>=0.5", "age.mae.high<=3"]), several)
    check_metrics(parse_bars(["mae<=3", "r2>=0", "baseline_mae>=1"]), {"age": Number()})
    with pytest.raises(UserError, match="no metric 'mae' is measured"):
        check_metrics(parse_bars(["mae<=3"]), several)
