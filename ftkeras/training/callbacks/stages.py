"""Names the stages of `fit`, for the timeline of `train --profile`."""

from __future__ import annotations

import keras

from ftkeras.phases.callback import Logs, StagedUnfreezing
from ftkeras.timeline import stage

_FIRST = "first step of a phase: trace and compile"


class FitStages(keras.callbacks.Callback):
    """Divides `fit` into first steps, later steps and validation.

    Keras traces a phase's train function during the first step of the phase.

    Args:
        unfreeze: The phases.
    """

    def __init__(self, unfreeze: StagedUnfreezing):
        super().__init__()
        self._unfreeze = unfreeze
        self._open: list[stage] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._phase = ""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        known, self._phase = self._phase, self._unfreeze.phase.name
        self._enter("train" if self._phase == known else _FIRST)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._open[-1].name == _FIRST:
            self._leave()
            self._enter("train")

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._enter("validate")

    def on_test_end(self, logs: Logs | None = None) -> None:
        self._leave()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Ends open stages; call it when `fit` is over, also after an error."""
        while self._open:
            self._leave()

    def _enter(self, name: str) -> None:
        self._open.append(stage(name))
        self._open[-1].__enter__()

    def _leave(self) -> None:
        self._open.pop().__exit__()
