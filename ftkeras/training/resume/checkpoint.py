"""Checkpoints: the weights of the last and of the best epoch, and all that a run resumes from."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.errors import TrainingError, did_you_mean
from ftkeras.files import written_whole
from ftkeras.phases.phase import improves
from ftkeras.run import Run
from ftkeras.state_file import DamagedState, Tree, read_state, write_state
from ftkeras.timeline import stage
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.resume.state import values_of

gfile = tf.io.gfile

_A_DATASET = 4096  # bytes that HDF5 adds for each, at most
_CANNOT_TELL = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # file systems without allocation


@stage("save states and weights")
def save_last(model: keras.Model, run: Run) -> None:
    """Writes `checkpoints/last.weights.h5`, as Keras loads it: whole, or the one before stays."""
    with written_whole(run.path("checkpoints", "last.weights.h5")) as temporary:
        _check_room(temporary, model)
        model.save_weights(temporary)


def _check_room(path: str, model: keras.Model) -> None:
    """Raises OSError if weights and optimizer would not fit: HDF5 would end the process."""
    if "://" in path or not hasattr(os, "posix_fallocate"):
        return
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    needed = sum(
        math.prod(variable.shape) * tf.as_dtype(variable.dtype).size + _A_DATASET
        for variable in variables
        if variable.dtype != "string"
    )
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, needed)
    except OSError as error:
        if error.errno not in _CANNOT_TELL:
            raise
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)


class Checkpoints(keras.callbacks.Callback):
    """Keeps the weights of a run's best epoch, counted from 1: `checkpoints/best-0003.ckpt`.

    The name has the epoch because a killed run resumes from a checkpoint. The best epoch of that
    checkpoint may differ from the one whose weights were written last.

    Args:
        model: Whose weights they are, also while `fit` trains its tail alone.
        run: Where they go.
        monitor: The logged metric that decides which epoch is the best; its name gives the
            direction. None: the last one is.
        average: If given, the best weights are the averaged ones, which validation measured.
    """

    def __init__(
        self,
        model: keras.Model,
        run: Run,
        monitor: str | None,
        average: AveragedWeights | None = None,
    ):
        super().__init__()
        self.subject = model
        self.best: float | None = None
        self.best_epoch: int | None = None
        """The best epoch, from 0."""
        self._known: list[int | None] = []  # what the last two states hold for the best
        self._best_loss = math.inf
        self.run = run
        self._monitor = monitor
        self.average = average

    @stage("save states and weights")
    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if self._monitor is None:
            self._keep_weights(epoch)
            return
        if self._monitor not in logs:
            raise TrainingError(
                f"training.monitor: no metric {self._monitor!r} is logged."
                f"{did_you_mean(self._monitor, logs)} Logged: {', '.join(logs)}."
            )
        value = float(logs[self._monitor])
        loss = float(logs.get("val_loss", logs["loss"]))
        better = improves(self._monitor, value, self.best)
        if better or (value == self.best and loss < self._best_loss):  # equal in a small split
            self.best, self._best_loss = value, loss
            self._keep_weights(epoch)

    def _keep_weights(self, epoch: int) -> None:
        self.best_epoch = epoch
        with contextlib.nullcontext() if self.average is None else self.average.swapped():
            # Not as Keras writes them: that takes half a second, and this a tenth.
            write_state(self._path(epoch), {"weights": values_of(self.subject.weights)})
        self._keep([*self._known, epoch])

    def load_best(self, model: keras.Model) -> None:
        """Puts the best epoch's weights into the model; TrainingError if they are damaged."""
        if self.best_epoch is not None:
            path = self._path(self.best_epoch)
            try:
                weights = read_state(path)["weights"]
            except DamagedState as error:
                raise TrainingError(f"{path} {error}; train again with --overwrite.") from None
            for variable, value in zip(model.weights, weights, strict=True):
                variable.assign(value)

    def note_state(self) -> None:
        """Removes best weights that neither the state just written nor the one before knows of."""
        self._known = [*self._known[-1:], self.best_epoch]
        self._keep(self._known)

    def _keep(self, epochs: Sequence[int | None]) -> None:
        kept = {os.path.basename(self._path(epoch)) for epoch in epochs if epoch is not None}
        for name in gfile.listdir(self.run.path("checkpoints")):
            if re.fullmatch(r"best-\d+\.ckpt", name) and name not in kept:
                gfile.remove(self.run.path("checkpoints", name))

    def state(self) -> Tree:
        """Returns which epoch is the best, and how good it is."""
        bests = [*self._known[-1:], self.best_epoch]
        return {"best": self.best, "bests": bests, "best_loss": self._best_loss}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self.best, self._best_loss = state["best"], state["best_loss"]
        self._known = list(state["bests"])
        self.best_epoch = self._known[-1] if self._known else None

    def _path(self, epoch: int) -> str:
        return self.run.path("checkpoints", f"best-{epoch + 1:04d}.ckpt")


class States:
    """The last two states of a run's training, in `checkpoints/`; see `resume.state`.

    Args:
        run: The run.
        report: Gets a line if a state is damaged.
    """

    _NAME = re.compile(r"state-\d{5}-\d{8}\.ckpt")

    def __init__(self, run: Run, report: Callable[[str], None] = print):
        self._run = run
        self._report = report

    def save(self, epoch: int, batches: int, tree: Tree) -> None:
        """Writes a state, and removes those before the one before it."""
        write_state(self._path(f"state-{epoch:05d}-{batches:08d}.ckpt"), tree)
        for name in self.names()[:-2]:
            gfile.remove(self._path(name))

    def newest(self) -> Tree | None:
        """Returns the newest whole state; what is damaged is reported and removed."""
        damaged = False
        for name in reversed(self.names()):
            try:
                return read_state(self._path(name))
            except DamagedState as error:
                self._report(f"checkpoint {name} {error}; trying the one before")
                with contextlib.suppress(tf.errors.OpError):  # what cannot be read may stay, too
                    gfile.remove(self._path(name))
                damaged = True
        if damaged:
            self._report("no checkpoint is usable: training starts at the beginning")
        return None

    def remove_newest(self) -> None:
        """Removes the newest state."""
        gfile.remove(self._path(self.names()[-1]))

    def remove(self) -> None:
        """Removes all states: the run is finished."""
        for name in self.names():
            gfile.remove(self._path(name))

    def names(self) -> list[str]:
        """Returns the names of the states that there are, the newest last."""
        if not gfile.exists(self._run.path("checkpoints")):
            return []
        entries = gfile.listdir(self._run.path("checkpoints"))
        return sorted(name for name in entries if self._NAME.fullmatch(name))

    def _path(self, name: str) -> str:
        return self._run.path("checkpoints", name)
