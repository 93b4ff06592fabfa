"""Rates and gradient norms by group, on TensorBoard, with warnings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from ftkeras.phases.callback import Logs, StagedUnfreezing
from ftkeras.run import Run
from ftkeras.training.resume.state_file import Tree


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
        norms, rates = self._unfreeze.optimizer.gradient_norms(), self._rates()
        with self._writer.as_default():
            for group, rate in rates.items():
                tf.summary.scalar(f"learning_rate/{group}", rate, step=epoch)
                tf.summary.scalar(f"gradient_norm/{group}", norms.get(group, 0.0), step=epoch)
        for group in rates:
            self._look_at(group, norms.get(group, 0.0))
        self._before = norms

    def _rates(self) -> dict[str, float]:
        """Returns the learning rate at this moment of the head and of each block that trains."""
        rate = float(keras.ops.convert_to_numpy(self._unfreeze.optimizer.learning_rate))
        planned = self._unfreeze.plan.phases[self._unfreeze.index or 0]
        rates: dict[str, float] = {}
        for weight in planned.trained:
            group = weight.block or "head"
            rates[group] = max(rates.get(group, 0.0), planned.shares[id(weight.variable)] * rate)
        return rates

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

    def state(self) -> Tree:
        """Returns the norms of the epoch before, and whom it warned of."""
        return {"before": self._before, "warned": sorted(self._warned)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self._before = dict(state["before"])
        self._warned = {(phase, group) for phase, group in state["warned"]}
