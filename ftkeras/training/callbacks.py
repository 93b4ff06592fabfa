"""The callbacks of a run: its record, its progress line, its position in the data."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import keras
import tensorflow as tf

from ftkeras.console import Progress, duration
from ftkeras.data.feed import Feed
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.training.run import Run

Logs = dict[str, Any]


class DataPosition(keras.callbacks.Callback):
    """Tells the data which epoch begins, and how strongly its phase augments.

    `fit` asks for the epoch's first batch after this; order and augmentation follow from it.
    """

    def __init__(self, feed: Feed, unfreeze: StagedUnfreezing):
        super().__init__()
        self._feed = feed
        self._unfreeze = unfreeze

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._feed.epoch.assign(epoch)
        self._feed.set_strength(self._unfreeze.phase.augmentation)


class GroupHealth(keras.callbacks.Callback):
    """Writes rate and gradient norm of the head and of each block to TensorBoard, and warns.

    A group is named in a warning, once a phase, where its gradients vanish (they cannot move
    float32 weights any more) or explode (they are not finite, or a thousand times those of the
    epoch before).
    """

    _VANISHED, _EXPLODED = 1e-8, 1e3

    def __init__(self, run: Run, unfreeze: StagedUnfreezing, report: Callable[[str], None]):
        super().__init__()
        self._writer = tf.summary.create_file_writer(run.path("logs", "groups"))
        self._unfreeze = unfreeze
        self._report = report
        self._before: dict[str, float] = {}
        self._warned: set[tuple[str, str]] = set()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        norms = self._unfreeze.gradient_norms()
        with self._writer.as_default():
            for group, rate in self._unfreeze.group_rates().items():
                tf.summary.scalar(f"learning_rate/{group}", rate, step=epoch)
                tf.summary.scalar(f"gradient_norm/{group}", norms.get(group, 0.0), step=epoch)
        for group in self._unfreeze.training_groups():
            self._look_at(group, norms.get(group, 0.0))
        self._before = norms

    def _look_at(self, group: str, norm: float) -> None:
        phase = self._unfreeze.phase.name
        before = self._before.get(group, math.inf)
        if norm < self._VANISHED:
            trouble = "vanish: nothing it computes reaches the loss, or its activations are dead"
        elif not math.isfinite(norm) or norm > self._EXPLODED * before:
            trouble = "explode: lower the learning rate, or set optimizer.clip_norm"
        else:
            return
        if (phase, group) not in self._warned:
            self._warned.add((phase, group))
            self._report(f"warning: phase {phase}: the gradients of {group} ({norm:.2g}) {trouble}")

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._writer.flush()


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

    def __init__(self, unfreeze: StagedUnfreezing, steps_per_epoch: int):
        super().__init__()
        self._unfreeze = unfreeze
        self._progress = Progress("training", steps_per_epoch * unfreeze.epochs)
        self._place = ""
        self._epoch_start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._place = f"{self._unfreeze.phase.name}, epoch {epoch + 1}/{self._unfreeze.epochs}"
        self._epoch_start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._progress.advance(1, self._place)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        shown = sorted((logs or {}).items(), key=lambda item: "loss" not in item[0])
        numbers = "  ".join(f"{n} {float(v):.4f}" for n, v in shown if n != "learning_rate")
        seconds = duration(time.monotonic() - self._epoch_start)
        self._progress.say(f"{self._place}: {numbers}  ({seconds})")

    def close(self) -> None:
        """Ends the progress line; call it when all of the training is over."""
        self._progress.close()


class Interruptible(keras.callbacks.Callback):
    """Lets Ctrl-C stop training between two steps, where everything can be saved; twice, at once.

    Without it the interrupt arrives wherever Python happens to be: while a checkpoint is being
    written, for instance. Give it to `fit` as the last callback, so that the others have finished.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked = False
        self._before: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self._before is None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._stop_if_asked()

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._stop_if_asked()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._stop_if_asked()

    def restore(self) -> None:
        """Gives the signal back to whoever had it; call it when `fit` is over, however it ended."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)

    def _stop_if_asked(self) -> None:
        if self._asked:
            raise KeyboardInterrupt
