"""PhaseClock in closed form."""

from __future__ import annotations

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftkeras.errors import UserError
from ftkeras.phases import Phase, weights_of
from ftkeras.phases.clock import PhaseClock
from ftkeras.phases.phase import Until, resolve_phases
from ftkeras.phases.plan import make_plan
from ftkeras.phases.schedule import learning_rate


def clock(*phases: Phase, steps: int | None = 10, every: int = 1) -> PhaseClock:
    return PhaseClock(resolve_phases(phases), steps, every)


def ends(of: PhaseClock) -> list[int]:
    return [of.end(index) for index in range(len(of.phases))]


def test_lengths_in_epochs_steps_and_until():
    of = clock(
        Phase("a", epochs=2, learning_rate=1.0),
        Phase("b", steps=7),
        Phase("c", until=Until(max_epochs=3)),
    )
    assert ends(of) == [20, 27, 57]
    assert [of.start(index) for index in range(3)] == [0, 20, 27]
    assert [of.length(index) for index in range(3)] == [20, 7, 30]
    assert of.epochs == 6
    assert [of.time(0), of.time(2, 3), of.time(5, 10)] == [0, 23, 60]


@pytest.mark.parametrize(
    ("time", "expected"),
    [(0, (0, 0)), (19, (0, 19)), (20, (1, 0)), (26, (1, 6)), (27, (2, 0)), (29, (2, 2)),
     (30, (2, 3)), (999, (2, 972))],
)  # fmt: skip
def test_locate_also_past_the_end(time, expected):
    of = clock(Phase("a", epochs=2, learning_rate=1.0), Phase("b", steps=7), Phase("c", steps=3))
    assert of.locate(time) == expected
    assert of.over(time) == (time >= 30)


def test_a_phase_that_ended_early_moves_all_later_ones():
    of = clock(
        Phase("a", until=Until(max_epochs=9), learning_rate=1.0),
        Phase("b", epochs=1),
        Phase("c", until=Until(max_epochs=4)),
    )
    assert ends(of) == [90, 100, 140]
    of.stop(0, 30)
    assert ends(of) == [30, 40, 80]
    assert [of.locate(t)[0] for t in (29, 30, 39, 40)] == [0, 1, 1, 2]
    assert of.epochs == 8
    of.stop(2, 60)
    assert of.over(60)
    assert not of.over(59)


def test_a_decay_is_laid_out_over_the_longest_length():
    of = clock(Phase("a", until=Until(max_epochs=2), learning_rate=1.0, decay="linear"))
    assert [of.rate(0, since) for since in (0, 10, 19)] == pytest.approx([1.0, 0.5, 0.05])


def test_phases_end_with_a_whole_update_but_for_the_last():
    phases = Phase("a", steps=4, learning_rate=1.0), Phase("b", steps=5), Phase("c", steps=4)
    assert ends(clock(*phases)) == [4, 9, 13]
    of = clock(*phases, every=3)
    assert ends(of) == [6, 12, 16]
    of.stop(0, 4)
    assert ends(of) == [6, 12, 16]
    of.stop(0, 3)
    assert ends(of) == [3, 9, 13]


def test_the_plan_warns_of_ends_that_moved():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    phases = [Phase("a", steps=4, learning_rate=1e-3), Phase("b", train=["all"])]

    def warnings(every: int | None) -> list[str]:
        model.compile(keras.optimizers.SGD(gradient_accumulation_steps=every), "mse")
        plan = make_plan(model, weights_of(model), phases, steps_per_epoch=10, batch_size=32)
        return [warning for warning in plan.warnings if "more than its length" in warning]

    assert warnings(None) == []
    assert warnings(2) == []
    (warning,) = warnings(3)
    assert "phase 'a' lasts 2 steps more" in warning
    assert "an update takes 3 batches" in warning


def test_without_steps_per_epoch_time_is_counted_in_epochs():
    of = clock(
        Phase("a", epochs=2, learning_rate=1.0, decay="linear"),
        Phase("b", epochs=1),
        steps=None,
        every=4,
    )
    assert ends(of) == [2, 3]
    assert of.epochs == 3
    assert [of.time(1, batch) for batch in (0, 5)] == [1, 1]
    assert [of.locate(of.time(epoch)) for epoch in range(4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [of.rate(0, since) for since in (0, 1)] == [1.0, 0.5]
    with pytest.raises(UserError, match="phase 'a': its length is in steps, so steps_per_epoch"):
        ends(clock(Phase("a", steps=4, learning_rate=1.0), steps=None))


@pytest.mark.parametrize(
    ("decay", "first", "last"),
    [
        ("constant", 1.0, 1.0),
        ("linear", 1.0, 0.1),
        ("cosine", 1.0, 0.0244717),  # (1 + cos(0.9 pi)) / 2
        ("step", 1.0, 0.01),
        ("one_cycle", 0.04, 0.0496122),  # a seventh of the fall is left: (1 + cos(6 pi / 7)) / 2
    ],
)
def test_the_rate_of_the_first_and_last_step(decay, first, last):
    of = clock(Phase("a", steps=10, learning_rate=1.0, decay=decay))
    assert of.rate(0, 0) == pytest.approx(first)
    assert of.rate(0, 9) == pytest.approx(last, abs=1e-4)
    assert [of.rate(0, -3), of.rate(0, 99)] == [of.rate(0, 0), of.rate(0, 9)]


LENGTHS = st.one_of(
    st.fixed_dictionaries({"epochs": st.integers(1, 4)}),
    st.fixed_dictionaries({"steps": st.integers(1, 40)}),
    st.fixed_dictionaries({"until": st.builds(Until, max_epochs=st.integers(1, 4))}),
)
SHAPES = st.fixed_dictionaries(
    {
        "decay": st.sampled_from(["constant", "linear", "cosine", "step", "one_cycle"]),
        "warmup": st.floats(0, 0.9),
    }
)


@given(
    parts=st.lists(st.tuples(LENGTHS, SHAPES), min_size=1, max_size=4),
    steps=st.integers(1, 12),
    every=st.integers(1, 5),
    stops=st.lists(st.integers(0, 100), max_size=3),
)
def test_every_time_belongs_to_one_phase_and_has_the_rate_of_its_schedule(
    parts, steps, every, stops
):
    phases = [
        Phase(f"p{i}", learning_rate=1.0 + i, **length, **shape)
        for i, (length, shape) in enumerate(parts)
    ]
    of = clock(*phases, steps=steps, every=every)
    for index, after in enumerate(stops[: len(phases) - 1]):
        of.stop(index, min(of.start(index) + after, of.end(index)))
    starts = [of.start(index) for index in range(len(phases))]
    assert starts == sorted(starts)
    assert starts[1:] == ends(of)[:-1]
    assert all(end % every == 0 for end in ends(of)[:-1])
    total = ends(of)[-1]
    for time in range(total + 3):
        index, since = of.locate(time)
        assert since >= 0
        assert starts[index] + since == time
        assert time < of.end(index) or (index == len(phases) - 1 and of.over(time))
        length = max(of.length(index), 1)
        expected = learning_rate(of.phases[index], min(since, length - 1), length)
        assert of.rate(index, since) == expected > 0
    assert of.epochs == -(-total // steps)
