"""A training that breaks off at any step and goes on ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
from typing import Any

import keras
import numpy as np
import pytest

from ftkeras.errors import Preempted
from ftkeras.phases import Phase, Until
from ftkeras.training.callbacks.early_stopping import EarlyStopping
from ftkeras.training.resume import saving
from ftkeras.training.resume.checkpoint import States
from ftkeras.training.resume.saving import SavingOptions
from ftkeras.training.resume.signals import Signals

pytestmark = pytest.mark.slow

PLANS: dict[str, dict[str, Any]] = {
    "by epochs, accumulating, averaged": {
        "phases": [
            Phase("head", 2, 1e-2, warmup=0.2),
            Phase("top", 2, train=["head", "blocks[-1]"], layer_decay=0.5, batch_norm="train"),
        ],
        "accumulate": 3,
    },
    "a phase begins within an epoch": {
        "phases": [
            Phase("head", steps=7, learning_rate=1e-2, augmentation="light"),
            Phase("all", steps=8, train=["all"], dropout=0.1, augmentation="medium"),
        ],
    },
    "until a metric stops, then early stopping": {
        "phases": [
            Phase("head", until=Until("loss", 1, min_delta=0.05, max_epochs=3), learning_rate=1e-2),
            Phase("all", 3, train=["all"]),
        ],
        "early_stopping": True,
    },
}


class Killed(Exception):
    """What a test raises out of a training."""


class Kill(keras.callbacks.Callback):
    """Breaks off after so many training steps, or in the validation after so many epochs."""

    def __init__(self, steps: int | None = None, validations: int | None = None):
        super().__init__()
        self.left = {"steps": steps, "validations": validations}

    def _count(self, what: str) -> None:
        if self.left[what] is not None:
            self.left[what] -= 1
            if self.left[what] == 0:
                raise Killed

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._count("steps")

    def on_test_begin(self, logs: Any = None) -> None:
        self._count("validations")


class Stop(keras.callbacks.Callback):
    """Sends a signal at the n-th call of a method."""

    def __init__(self, number: int, method: str, calls: int = 1):
        super().__init__()
        self._left = calls

        def send(*_: Any, logs: Any = None) -> None:
            self._left -= 1
            if self._left == 0:
                signal.raise_signal(number)

        setattr(self, method, send)


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    for name in one:
        if isinstance(one[name], list) and name != "records":
            for first, second in zip(one[name], two[name], strict=True):
                np.testing.assert_array_equal(first, second, err_msg=name)
        else:
            assert one[name] == two[name], name


@pytest.mark.parametrize("name", PLANS)
def test_a_training_that_is_killed_again_and_again_ends_the_same(small_training, tmp_path, name):
    plan = dict(PLANS[name])
    stops = plan.pop("early_stopping", False)

    def train(folder: str, *more: keras.callbacks.Callback, **options: Any) -> Any:
        stopping = [EarlyStopping("loss", patience=3, min_delta=0.02)] if stops else []
        callbacks = [*stopping, *more]
        return small_training(tmp_path / folder, callbacks=callbacks, **plan, **options)

    whole, _ = train("whole")
    tries = [
        (Kill(steps=3), 2),
        (Kill(validations=1), None),
        (Kill(steps=9), 3),
        (Kill(steps=4), 1),
    ]
    for kill, every_steps in tries:
        with pytest.raises(Killed):
            train("parts", kill, saving=SavingOptions(every_steps))
    resumed, run = train("parts", Kill())
    assert_same(whole, resumed)
    events = [json.loads(line) for line in run.read_text("events.jsonl").splitlines()]
    assert [event["event"] for event in events] == ["resumed"] * 4
    assert len(list((tmp_path / "parts/checkpoints").glob("state-*.ckpt"))) == 2


STOPS: dict[str, tuple[list[Phase], list[tuple[int, str, int]]]] = {
    "in the first validation, in the same again, and in the last": (
        [Phase("head", 1, 1e-2), Phase("top", 1, train=["all"])],
        [
            (signal.SIGINT, "on_test_batch_begin", 1),
            (signal.SIGTERM, "on_test_batch_end", 2),
            (signal.SIGTERM, "on_test_begin", 2),
        ],
    ),
    "where a phase cuts the last epoch short": (
        [Phase("all", steps=3, learning_rate=1e-2, train=["all"])],
        [(signal.SIGTERM, "on_test_begin", 1), (signal.SIGINT, "on_test_end", 1)],
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_training_that_a_signal_stops_in_its_validation_ends_the_same(
    small_training, tmp_path, name
):
    phases, stops = STOPS[name]
    whole, _ = small_training(tmp_path / "whole", phases)
    for stop in stops:
        with Signals() as signals, pytest.raises(KeyboardInterrupt) as stopped:
            small_training(tmp_path / "parts", phases, callbacks=[Stop(*stop)], signals=signals)
        assert stopped.type is (Preempted if stop[0] == signal.SIGTERM else KeyboardInterrupt)
    resumed, _ = small_training(tmp_path / "parts", phases)
    assert_same(whole, resumed)


def test_a_second_signal_stops_at_once_and_the_run_resumes_from_the_state_before(
    small_training, tmp_path
):
    class Twice(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    phases = [Phase("all", 1, 1e-2, train=["all"])]
    whole, _ = small_training(tmp_path / "whole", phases)
    with Signals() as signals, pytest.raises(Preempted):
        small_training(tmp_path / "parts", phases, callbacks=[Twice()], signals=signals)
    resumed, run = small_training(tmp_path / "parts", phases)
    assert_same(whole, resumed)
    (event,) = [json.loads(line) for line in run.read_text("events.jsonl").splitlines()]
    assert (event["epoch"], event["batches"]) == (0, 0)


@pytest.mark.parametrize(
    ("share", "options", "saved"),
    [
        (1e9, SavingOptions(), [0, 1, 2, 3]),
        (1e-9, SavingOptions(), [0, 3]),
        (1e-9, SavingOptions(every_epoch=True), [0, 1, 2, 3]),
    ],
)
def test_short_epochs_are_saved_now_and_then(
    small_training, tmp_path, monkeypatch, share, options, saved
):
    positions = []
    save = States.save

    def noted(states: States, epoch: int, batches: int, tree: Any) -> None:
        positions.append(epoch)
        save(states, epoch, batches, tree)

    monkeypatch.setattr(States, "save", noted)
    monkeypatch.setattr(saving, "_SHARE", share)
    small_training(tmp_path, [Phase("all", 3, 1e-2, train=["all"])], saving=options)
    assert positions == saved


def test_what_was_not_saved_is_repeated_exactly(small_training, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "_SHARE", 1e-9)
    phases = [Phase("all", 4, 1e-2, train=["all"])]
    whole, _ = small_training(tmp_path / "whole", phases)
    with pytest.raises(Killed):  # in the third of four epochs
        small_training(tmp_path / "parts", phases, callbacks=[Kill(steps=12)])
    resumed, run = small_training(tmp_path / "parts", phases)
    assert_same(whole, resumed)
    (event,) = [json.loads(line) for line in run.read_text("events.jsonl").splitlines()]
    assert (event["event"], event["epoch"]) == ("resumed", 0)
