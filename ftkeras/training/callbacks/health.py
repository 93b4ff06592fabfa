"""Rates and gradient norms by group, on TensorBoard, with warnings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from ftkeras.phases.callback import Logs, StagedUnfreezing
from ftkeras.run import Run
from ftkeras.state_file import Tree
from ftkeras.training.resume.phases import THROUGH_TIME


def _by_group(norms: Mapping[str, float]) -> dict[str, float]:
    """Returns the norms of whole groups, adding parts that have their own names."""
    groups: dict[str, float] = {}
    for name, norm in norms.items():
        group = name.removesuffix(THROUGH_TIME)
        groups[group] = math.hypot(groups.get(group, 0.0), norm)
    return groups


class GroupHealth(keras.callbacks.Callback):
    """Writes rate and gradient norm of the head and of each block to TensorBoard, and warns.

    A warning names a group, once per phase, if its gradients vanish or explode. They vanish if they
    can no longer move float32 weights. They explode if they are not finite, or a thousand times
    those of the epoch before. The gradients of a recurrent layer that flow between steps are also
    checked separately: they alone may vanish or explode (Pascanu et al. 2013, "On the difficulty of
    training recurrent neural networks").
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
        measured, rates = self._unfreeze.optimizer.gradient_norms(), self._rates()
        norms = _by_group(measured)
        with self._writer.as_default():
            for group, rate in rates.items():
                tf.summary.scalar(f"learning_rate/{group}", rate, step=epoch)
                tf.summary.scalar(f"gradient_norm/{group}", norms.get(group, 0.0), step=epoch)
        for group in rates:
            if not self._look_at(group, norms.get(group, 0.0)) and self._is_recurrent(group):
                name = f"{group}{THROUGH_TIME}"
                self._look_at(name, measured.get(name, 0.0))
        self._before = {**measured, **norms}

    def _rates(self) -> dict[str, float]:
        """Returns the current learning rate of the head and of each block that trains."""
        rate = float(keras.ops.convert_to_numpy(self._unfreeze.optimizer.learning_rate))
        planned = self._unfreeze.plan.phases[self._unfreeze.index or 0]
        rates: dict[str, float] = {}
        for weight in planned.trained:
            group = weight.block or "head"
            rates[group] = max(rates.get(group, 0.0), planned.shares[id(weight.variable)] * rate)
        return rates

    def _is_recurrent(self, group: str) -> bool:
        """Whether trained weights of a group connect the steps of a sequence."""
        trained = self._unfreeze.plan.phases[self._unfreeze.index or 0].trained
        own = (weight for weight in trained if (weight.block or "head") == group)
        return any(weight.path.endswith("/recurrent_kernel") for weight in own)

    def _look_at(self, group: str, norm: float) -> bool:
        """Warns of a group whose gradients vanish or explode; returns whether they do."""
        phase = self._unfreeze.phase.name
        before = self._before.get(group, math.inf)
        if norm < self._VANISHED:
            trouble = (
                "vanish: no step learns from the ones before; its gates are shut, or all texts "
                "have one token"
                if group.endswith(THROUGH_TIME)
                else "vanish: nothing it computes reaches the loss, or its activations are dead"
            )
        elif not math.isfinite(norm) or norm > self._EXPLODED * before:
            trouble = "explode: lower the learning rate, or set optimizer.clip_norm"
        else:
            return False
        if (phase, group) not in self._warned:
            self._warned.add((phase, group))
            self._report(f"warning: phase {phase}: the gradients of {group} ({norm:.2g}) {trouble}")
        return True

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._writer.flush()

    def state(self) -> Tree:
        """Returns the norms of the epoch before, and the groups that it has warned of."""
        return {"before": self._before, "warned": sorted(self._warned)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self._before = dict(state["before"])
        self._warned = {(phase, group) for phase, group in state["warned"]}
