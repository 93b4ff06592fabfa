"""The progress line of a training."""

from __future__ import annotations

import time
from typing import Any

import keras

from ftkeras.console import Progress, duration
from ftkeras.phases.callback import StagedUnfreezing

Logs = dict[str, Any]


class FitProgress(keras.callbacks.Callback):
    """Shows how far training is and how long it will take; one lasting line an epoch."""

    def __init__(self, unfreeze: StagedUnfreezing, steps_per_epoch: int):
        super().__init__()
        self._unfreeze = unfreeze
        self._steps_per_epoch = steps_per_epoch
        self._progress = Progress("training", steps_per_epoch * unfreeze.epochs)
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
        """Ends the progress line; call it when all of the training is over."""
        self._progress.close()

    def _name(self, epoch: int) -> str:
        return f"{self._unfreeze.phase.name}, epoch {epoch + 1}/{self._unfreeze.epochs}"
