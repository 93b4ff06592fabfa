"""Phases that resume at any step, and that may be trained by one `fit` each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ftkeras.phases.audit import Audit, AuditResult
from ftkeras.phases.callback import Logs, StagedUnfreezing

THROUGH_TIME = ", through time"
"""How the names of gradients end that flow from step to step of a sequence: a part of a group's."""


class ResumableUnfreezing(StagedUnfreezing):
    """`StagedUnfreezing` for runs: it resumes within an epoch, and its audit spans the break.

    Keras's own checkpoints resume at the end of an epoch. This resumes between any two steps, with
    `state` and `load_state`, if the variables of model and optimizer are restored first.
    """

    one_fit_a_phase = False
    """Whether another `fit` trains the next phase: then `fit` should end when a phase does."""
    _loaded = False
    _cut = False  # whether `fit` was stopped because the rest of an epoch is done

    def _names_of_gradients(self) -> dict[int, str]:
        return {
            id(w.variable): (w.block or "head")
            + (THROUGH_TIME if w.path.endswith("/recurrent_kernel") else "")
            for w in self.plan.weights.all
        }

    def _between_updates(self) -> bool:
        # Another `fit` has another model, which may lack what this phase trains.
        return self.one_fit_a_phase or super()._between_updates()

    @property
    def paused(self) -> bool:
        """Whether a phase has ended and its `fit` should, because another trains the next."""
        return self.one_fit_a_phase and self._to_leave()

    def upcoming(self) -> int:
        """Ends a phase that is over; returns the index of the phase that the next `fit` trains."""
        ended = self._to_leave()
        if ended:
            self.close()
        return (self.index or 0) + ended

    def _to_leave(self) -> bool:
        if self.index is None or self.index == len(self.phases) - 1:
            return False
        # A resumed run may have an epoch's validation still to do, which belongs to this phase.
        epoch, batches = self.position[0], self.first_batch
        validates = bool(batches) and batches == self.clock.steps_per_epoch
        return not validates and self.clock.time(epoch, batches) >= self.clock.end(self.index)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        index, clock, traced = self.index, self.clock, self._traced
        super().on_train_begin(logs)
        if self._loaded or self.one_fit_a_phase:
            self.index, self.clock.ends, self._traced = index, clock.ends, traced
        if index is not None and self._loaded:
            self.set_up(index)
        self._loaded = False

    def _compare_lengths(self, epochs: int | None) -> None:
        pass  # a run chooses how long each `fit` is

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self.first_batch and self.position[1] == self.clock.steps_per_epoch:
            # Keras would read as many batches in an epoch that began in the middle as in any other.
            self._cut = not self.model.stop_training
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._cut:
            self.model.stop_training = self._cut = False
        super().on_epoch_end(epoch, logs)

    def state(self) -> dict[str, Any]:
        """Returns where it stands: plain values. Call it between steps or epochs.

        The variables of the model and of the optimizer are not in it.
        """
        return {
            "position": list(self.position),
            "phase": self.index,
            "running": self._running,
            "rate_scale": self.rate_scale,
            "ends": self.clock.ends,
            "best": self.best.numbers(),
            "audit": None if self._audit is None else self._audit.state(),
            "verdicts": {name: dataclasses.asdict(v) for name, v in self.verdicts.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned, also within an epoch, in the next `fit`.

        Give that `fit` `initial_epoch=unfreeze.position[0]`, and for the first epoch only the
        batches that are left. Restore the variables of the model and of the optimizer first.
        """
        self.prepare()
        epoch, self.first_batch = state["position"]
        self.position, self._cut = (epoch, self.first_batch), False
        self.index, self._running = state["phase"], state["running"]
        self.clock.ends, self.best = list(state["ends"]), type(self.best).of(state["best"])
        self.rate_scale = state["rate_scale"]
        self.verdicts = {name: AuditResult.of(fields) for name, fields in state["verdicts"].items()}
        self._loaded, self._audit, self._traced = True, None, None
        self.set_up(self.index or 0)
        if state["audit"] is not None:
            self._audit = Audit(self.subject, self.plan.phases[self.index or 0].trained)
            self._audit.load_state(state["audit"])
