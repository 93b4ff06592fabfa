"""Callbacks by epoch: the record, the progress line, and the order of the data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import keras

from ftkeras.console import Progress, duration
from ftkeras.data.feed import Feed
from ftkeras.memory import peak_memory_record
from ftkeras.phases.callback import Logs, StagedUnfreezing
from ftkeras.run import Run
from ftkeras.state_file import Tree


class EpochBoard(keras.callbacks.TensorBoard):
    """Keras's TensorBoard by epoch.

    After each batch Keras would still prepare summaries that it does not write. That takes a
    quarter of the time of a head's training step.
    """

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Nothing is written by the batch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Nothing is written by the batch."""


class EpochRecord(keras.callbacks.Callback):
    """Writes a line to `metrics.jsonl` after each epoch: phase, metrics, rate, seconds."""

    def __init__(self, run: Run, unfreeze: StagedUnfreezing):
        super().__init__()
        self._run = run
        self._unfreeze = unfreeze
        self._lines = 0
        self._before = 0.0  # seconds of this epoch before it resumed
        self._start = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self._unfreeze.position[1] == 0:
            self._before = 0.0
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        phase = self._unfreeze.phase.name
        seconds = round(self._seconds(), 3)
        self._run.log(
            {"epoch": epoch, "phase": phase, **numbers, "seconds": seconds, **peak_memory_record()}
        )
        self._lines += 1

    def state(self) -> Tree:
        """Returns the number of lines, and the time of this epoch so far."""
        return {"lines": self._lines, "seconds": self._seconds()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned; epochs to be repeated leave the record."""
        self._lines, self._before = state["lines"], state["seconds"]
        self._start = time.monotonic()
        self._run.keep_records(self._lines)

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._start


class FitProgress(keras.callbacks.Callback):
    """Shows the progress of training and the time left; one lasting line per epoch."""

    def __init__(self, unfreeze: StagedUnfreezing, steps_per_epoch: int):
        super().__init__()
        self._unfreeze = unfreeze
        self._steps_per_epoch = steps_per_epoch
        self._progress = Progress("training", steps_per_epoch * unfreeze.epochs, "step")
        self._place = ""
        self._done = 0  # steps of this epoch
        self._epoch_start = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._done = self._unfreeze.position[1]
        self._progress.skip_to(epoch * self._steps_per_epoch + self._done)
        self._place = self._name(epoch)
        self._epoch_start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        before, self._done = self._done, self._unfreeze.position[1]
        self._progress.advance(self._done - before, self._place)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        shown = sorted((logs or {}).items(), key=lambda item: "loss" not in item[0])
        numbers = "  ".join(f"{n} {float(v):.4f}" for n, v in shown if n != "learning_rate")
        seconds = duration(time.monotonic() - self._epoch_start)
        self._progress.say(f"{self._name(epoch)}: {numbers}  ({seconds})")

    def close(self) -> None:
        """Ends the progress line; call it when the whole training is over."""
        self._progress.close()

    def _name(self, epoch: int) -> str:
        return f"{self._unfreeze.phase.name}, epoch {epoch + 1}/{self._unfreeze.epochs}"


class DataPosition(keras.callbacks.Callback):
    """Sets the epoch of the data, and the strength of augmentation of its phase.

    `fit` requests the epoch's first batch after this; order and augmentation depend on it.
    """

    def __init__(self, feed: Feed, unfreeze: StagedUnfreezing):
        super().__init__()
        self._feed = feed
        self._unfreeze = unfreeze
        self._strength: str | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        batches = self._unfreeze.position[1]
        self._feed.epoch.assign(epoch)
        self._feed.start.assign(batches * self._feed.batch_size)
        if batches == 0:  # otherwise the strength is that at the epoch's begin
            self._strength = self._unfreeze.phase.augmentation
        self._feed.set_view(self._strength)

    def state(self) -> Tree:
        """Returns the strength of the epoch's augmentation."""
        return {"strength": self._strength}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self._strength = state["strength"]
