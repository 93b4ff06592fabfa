"""The record of a run by epoch: `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import keras

from ftkeras.memory import peak_memory_record
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.run import Run
from ftkeras.training.resume.state_file import Tree

Logs = dict[str, Any]


class EpochBoard(keras.callbacks.TensorBoard):
    """Keras's TensorBoard by epoch.

    After each batch Keras would still prepare what it then does not write, which takes a quarter of
    the time of a head's training step.
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
        self._before = 0.0  # seconds of this epoch before it went on
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
        """Returns how many lines there are, and how long this epoch took so far."""
        return {"lines": self._lines, "seconds": self._seconds()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned; epochs that will come again leave the record."""
        self._lines, self._before = state["lines"], state["seconds"]
        self._start = time.monotonic()
        self._run.keep_records(self._lines)

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._start
