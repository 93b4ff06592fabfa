"""Learning rates in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftkeras.errors import UserError
from ftkeras.phases.best import BestEpoch
from ftkeras.phases.phase import Phase, Until, improves, resolve_phases
from ftkeras.phases.schedule import learning_rate


def rates(steps: int, **options) -> list[float]:
    (phase,) = resolve_phases([Phase("p", epochs=1, learning_rate=1.0, **options)])
    return [learning_rate(phase, step, steps) for step in range(steps)]


def test_constant_linear_cosine():
    assert rates(3, decay="constant") == [1, 1, 1]
    assert rates(4, decay="linear") == [1, 0.75, 0.5, 0.25]
    expected = [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert rates(4, decay="cosine") == pytest.approx(expected)


def test_step_falls_to_a_tenth_and_a_hundredth():
    assert rates(8, decay="step") == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]


def test_one_cycle_rises_to_the_peak_and_falls_far_below_its_start():
    found = rates(100, decay="one_cycle")
    assert found[0] == pytest.approx(1 / 25)
    assert found[30] == pytest.approx(1.0)
    assert found[65] == pytest.approx((1 + 1e-4) / 2)
    assert found[-1] < 1e-3


def test_warm_up_rises_linearly_to_the_peak():
    assert rates(8, decay="constant", warmup=0.5) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@given(
    steps=st.integers(1, 200),
    warmup=st.floats(0, 0.99),
    decay=st.sampled_from(["constant", "cosine", "linear", "step"]),
)
def test_every_step_has_a_rate_above_zero_and_at_most_the_peak(steps, warmup, decay):
    found = rates(steps, warmup=warmup, decay=decay)
    assert all(0 < rate <= 1 for rate in found)
    start = round(warmup * steps)
    assert found[:start] == sorted(found[:start])
    assert found[start:] == sorted(found[start:], reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: expected greater than or equal to 1, got 0"),
        ({"steps": 10}, "one of epochs, steps and until"),
        ({"learning_rate": 0.0}, "learning_rate: expected greater than 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: expected a finite number, got nan"),
        ({"warmup": 1.0}, "warmup: expected less than 1, got 1.0"),
        ({"dropout": -0.1}, "dropout: expected greater than or equal to 0, got -0.1"),
        ({"decay": "exponential"}, "decay: expected 'constant', 'cosine'"),
        ({"layer_decay": 0.0}, "layer_decay: expected greater than 0"),
        ({"rates": {"norm": 0.0}}, "rates.norm: expected greater than 0"),
        ({"lerning_rate": 1.0}, "lerning_rate: no such field. Did you mean 'learning_rate'"),
        ({"name": None, "epochs": 2.5}, "name: expected a valid string, got None"),
        ({"train": ["head", 3]}, r"train.1: expected a valid string, got 3"),
        ({"epochs": None, "until": 3}, "until: expected .* an instance of Until, got 3"),
        ({"batch_norm": "off"}, "batch_norm: expected 'frozen', 'train' or"),
    ],
)
def test_a_phase_refuses_what_makes_no_sense(options, message):
    with pytest.raises(UserError, match=f"phase ('p'|None): .*{message}") as caught:
        Phase(**{"name": "p", "epochs": 1, "learning_rate": 1.0, **options})
    assert "\n" not in str(caught.value)


def test_until_refuses_what_makes_no_sense():
    with pytest.raises(UserError, match="until: patience: expected greater than or equal to 1"):
        Until(patience=0)
    with pytest.raises(UserError, match="until: metrc: no such field. Did you mean 'metric'"):
        Until(metrc="val_loss")


def test_numbers_may_be_those_of_numpy_and_selectors_a_tuple_or_one():
    phase = Phase("a", np.int64(3), np.float32(0.5), ("head", "norm"))
    assert (phase.epochs, phase.learning_rate, phase.train) == (3, 0.5, ["head", "norm"])
    assert type(phase.epochs) is int
    assert Phase("a", train="all").train == ["all"]


def test_a_resolved_phase_has_nothing_left_out_and_stays_as_it_is():
    phases = resolve_phases([Phase("a", 1, 0.1), Phase("b", until=Until("val_loss"))])
    assert [(p.epochs, p.steps, p.until) for p in phases] == [
        (1, None, None),
        (None, None, Until("val_loss")),
    ]
    expected = (["head"], 0.0, "cosine", 1.0, {}, "frozen")
    for p in phases:
        assert (p.train, p.warmup, p.decay, p.layer_decay, p.rates, p.batch_norm) == expected
    assert resolve_phases(phases) == phases


def test_a_later_phase_inherits_what_it_leaves_out():
    first = Phase(
        "a", epochs=2, learning_rate=0.1, decay="linear", dropout=0.5, rates={"norm": 1.0}
    )
    second, third = resolve_phases(
        [first, Phase("b", train="all", steps=7), Phase("c", learning_rate=0.2, dropout=0.0)]
    )[1:]
    assert (second.epochs, second.steps, second.learning_rate) == (None, 7, 0.1)
    assert (second.train, second.decay, second.dropout) == (["all"], "linear", 0.5)
    assert second.rates == {"norm": 1.0}
    assert (third.steps, third.learning_rate, third.dropout) == (7, 0.2, 0.0)
    assert (third.warmup, third.batch_norm) == (0.0, "frozen")


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "at least one"),
        ([Phase("a", 1, 1.0), Phase("a")], "'a' is given twice"),
        ([Phase("a", epochs=1)], "learning_rate is missing"),
        ([Phase("a", learning_rate=1.0)], "one of epochs, steps and until is missing"),
    ],
)
def test_the_first_phase_must_say_enough(phases, message):
    with pytest.raises(UserError, match=message):
        resolve_phases(phases)


@pytest.mark.parametrize(
    ("metric", "value", "best", "better"),
    [
        ("val_auc", 0.7, 0.5, True),
        ("val_auc", 0.55, 0.5, False),
        ("val_loss", 0.3, 0.5, True),
        ("val_loss", 0.45, 0.5, False),
        ("val_loss", 9.0, None, True),
        ("val_auc", 0.1, float("nan"), True),
        ("val_auc", float("nan"), 0.5, False),
    ],
)
def test_what_improves_follows_from_the_metrics_name(metric, value, best, better):
    assert improves(metric, value, best, min_delta=0.1) == better


def test_a_metric_that_was_no_number_at_first_can_still_improve():
    until, best = Until("val_auc", patience=2), BestEpoch(0)
    seen = [float("nan"), 0.5, 0.4, 0.6, 0.6, 0.5]
    assert [best.judge(until, n, {"val_auc": v}, "phase") for n, v in enumerate(seen, 1)] == [
        True, True, False, True, False, False,
    ]  # fmt: skip
    assert best.over(until)
