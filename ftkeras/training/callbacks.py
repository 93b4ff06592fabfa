"""The callbacks of a run: its record, its progress line, its position in the data."""

from __future__ import annotations

import time
from typing import Any

import keras
import tensorflow as tf

from ftkeras.console import Progress, duration
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.training.run import Run

Logs = dict[str, Any]


class EpochCounter(keras.callbacks.Callback):
    """Tells the data pipeline which epoch begins: its order and augmentation follow from it."""

    def __init__(self, epoch: tf.Variable):
        super().__init__()
        self._variable = epoch

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._variable.assign(epoch)


class Record(keras.callbacks.Callback):
    """Writes a line to `metrics.jsonl` after each epoch: phase, metrics, rate, seconds."""

    def __init__(self, run: Run, unfreeze: StagedUnfreezing):
        super().__init__()
        self._run = run
        self._unfreeze = unfreeze
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        seconds = round(time.monotonic() - self._start, 3)
        phase = self._unfreeze.phase.name
        self._run.log({"epoch": epoch, "phase": phase, **numbers, "seconds": seconds})


class FitProgress(keras.callbacks.Callback):
    """Shows how far training is and how long it will take; one lasting line an epoch."""

    def __init__(self, unfreeze: StagedUnfreezing):
        super().__init__()
        self._unfreeze = unfreeze
        self._progress: Progress | None = None
        self._place = ""
        self._epoch_start = 0.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        steps = self.params["steps"]
        self._progress = Progress("training", steps and steps * self._unfreeze.epochs)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._place = f"{self._unfreeze.phase.name}, epoch {epoch + 1}/{self._unfreeze.epochs}"
        self._epoch_start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._progress is not None:
            self._progress.advance(1, self._place)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._progress is None:
            return
        shown = sorted((logs or {}).items(), key=lambda item: "loss" not in item[0])
        numbers = "  ".join(f"{n} {float(v):.4f}" for n, v in shown if n != "learning_rate")
        seconds = duration(time.monotonic() - self._epoch_start)
        self._progress.say(f"{self._place}: {numbers}  ({seconds})")

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._progress is not None:
            self._progress.close()
