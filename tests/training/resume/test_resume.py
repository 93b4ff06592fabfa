"""A training that stops at any step and resumes ends with the weights of one that never stopped."""

from __future__ import annotations

import json
import signal
from typing import Any

import keras
import numpy as np
import pytest

from ftkeras.config.schema import CheckpointConfig
from ftkeras.errors import Interrupted, Preempted
from ftkeras.phases import Phase, Until
from ftkeras.signals import Signals
from ftkeras.training.callbacks.early_stopping import EarlyStopping
from ftkeras.training.resume import saving
from ftkeras.training.resume.checkpoint import States
from ftkeras.training.resume.saving import Guards

pytestmark = pytest.mark.slow

PLANS: dict[str, dict[str, Any]] = {
    "by epochs, accumulating, averaged, with gradient checkpointing": {
        "phases": [
            Phase("head", 2, 1e-2, warmup=0.2),
            Phase("top", 2, train=["head", "blocks[-1]"], layer_decay=0.5, batch_norm="train"),
        ],
        "accumulate": 3,
        "checkpointing": True,
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
    """Breaks off after so many training steps, or never."""

    def __init__(self, steps: int = -1):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed


class Stop(keras.callbacks.Callback):
    """Sends signals when a method is called."""

    def __init__(self, method: str, *numbers: int):
        super().__init__()

        def send(*_: Any, logs: Any = None) -> None:
            for number in numbers:
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
    tries: list[tuple[keras.callbacks.Callback, int | None, type[BaseException]]] = [
        (Kill(steps=3), 2, Killed),
        (Stop("on_test_begin", signal.SIGTERM), None, Preempted),
        (Stop("on_test_batch_begin", signal.SIGINT), None, Interrupted),  # of the same epoch
        (Kill(steps=6), 3, Killed),
        (Kill(steps=4), 1, Killed),
    ]
    for stop, every_steps, raised in tries:
        with Signals() as signals, pytest.raises(raised):
            guards = Guards(CheckpointConfig(every_steps=every_steps), signals=signals)
            train("parts", stop, guards=guards)
    resumed, run = train("parts", Kill())
    assert_same(whole, resumed)
    events = [json.loads(line) for line in run.read_text("events.jsonl").splitlines()]
    assert [event["event"] for event in events] == ["resumed"] * 5
    assert len(list((tmp_path / "parts/checkpoints").glob("state-*.ckpt"))) == 2


def test_signals_in_the_validation_of_an_epoch_that_a_phase_cuts_short(small_training, tmp_path):
    phases = [Phase("all", steps=3, learning_rate=1e-2, train=["all"])]
    whole, _ = small_training(tmp_path / "whole", phases)
    stops = {
        Interrupted: Stop("on_test_begin", signal.SIGINT),
        # In the same validation; the second signal stops at once, and nothing is saved.
        Preempted: Stop("on_test_batch_end", signal.SIGINT, signal.SIGTERM),
    }
    for raised, stop in stops.items():
        with Signals() as signals, pytest.raises(raised):
            guards = Guards(signals=signals)
            small_training(tmp_path / "parts", phases, callbacks=[stop], guards=guards)
    resumed, _ = small_training(tmp_path / "parts", phases)
    assert_same(whole, resumed)


@pytest.mark.parametrize(
    ("share", "options", "saved"),
    [
        (1e9, Guards(), [0, 1, 2, 3]),
        (1e-9, Guards(), [0, 3]),
        (1e-9, Guards(every_epoch=True), [0, 1, 2, 3]),
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
    small_training(tmp_path, [Phase("all", 3, 1e-2, train=["all"])], guards=options)
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
