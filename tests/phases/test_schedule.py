"""Learning rates in closed form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftkeras.errors import UserError
from ftkeras.phases.phase import Phase, check_phases
from ftkeras.phases.schedule import learning_rate, locate


def rates(steps: int, **options) -> list[float]:
    phase = Phase("p", epochs=1, learning_rate=1.0, **options)
    return [learning_rate(phase, step, steps) for step in range(steps)]


def test_constant_linear_cosine():
    assert rates(3, decay="constant") == [1, 1, 1]
    assert rates(4, decay="linear") == [1, 0.75, 0.5, 0.25]
    expected = [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert rates(4, decay="cosine") == pytest.approx(expected)


def test_warm_up_rises_linearly_to_the_peak():
    assert rates(8, decay="constant", warmup=0.5) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@given(
    steps=st.integers(1, 200),
    warmup=st.floats(0, 0.99),
    decay=st.sampled_from(["constant", "cosine", "linear"]),
)
def test_every_step_has_a_rate_above_zero_and_at_most_the_peak(steps, warmup, decay):
    found = rates(steps, warmup=warmup, decay=decay)
    assert all(0 < rate <= 1 for rate in found)
    start = round(warmup * steps)
    assert found[:start] == sorted(found[:start])
    assert found[start:] == sorted(found[start:], reverse=True)


def test_locate():
    phases = [Phase("a", 2, 1.0), Phase("b", 3, 1.0)]
    found = [locate(phases, epoch) for epoch in range(7)]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"decay": "exponential"}, "decay must be"),
        ({"batch_norm": "off"}, "batch_norm must be"),
    ],
)
def test_a_phase_refuses_what_makes_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        Phase(**{"name": "p", "epochs": 1, "learning_rate": 1.0, **options})


def test_phases_need_different_names():
    with pytest.raises(UserError, match="'a' is given twice"):
        check_phases([Phase("a", 1, 1.0), Phase("a", 1, 1.0)])
    with pytest.raises(UserError, match="at least one"):
        check_phases([])
