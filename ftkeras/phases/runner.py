"""PlanRunner: executes a plan on a model, from phase to phase, whatever the training loop is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.phases.audit import Audit, AuditResult
from ftkeras.phases.best import BestEpoch
from ftkeras.phases.clock import PhaseClock
from ftkeras.phases.freezing import check_all_known, check_own_flags, set_trainable
from ftkeras.phases.groups import same_groups
from ftkeras.phases.install import install, phased
from ftkeras.phases.optimizer import PhasedOptimizer
from ftkeras.phases.phase import Phase
from ftkeras.phases.plan import Plan, bytes_of, describe_start
from ftkeras.phases.recalibrate import recalibrate_batch_norm
from ftkeras.phases.settings import Settings


class PlanRunner:
    """Executes a plan: flags, rates, settings and optimizer of each phase, and the audit.

    Args:
        model: The model that the plan is bound to.
        plan: The plan.
        settings: Sets what a phase changes besides weights and rates.
        recalibrate_on: Batches for phases with `batch_norm="recalibrate"`.
        audit: Whether to check at each phase's end that what was frozen did not move.
        report: Gets one line for each phase that begins.

    Raises:
        UserError: A phase needs what is missing.
    """

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        settings: Settings,
        *,
        recalibrate_on: tf.data.Dataset | None,
        audit: bool,
        report: Callable[[str], None] | None,
    ):
        self.plan = plan
        """What each phase does: the plan that is printed is the plan that runs."""
        self.phases: tuple[Phase, ...] = tuple(planned.phase for planned in plan.phases)
        self.clock = PhaseClock(self.phases, plan.steps_per_epoch, plan.accumulation)
        self.epochs = self.clock.epochs
        """The epochs of all phases together, at most: what to pass to `fit`."""
        self.verdicts: dict[str, AuditResult] = {}
        """What the audit of each phase that has ended found."""
        self.position = (0, 0)
        """The epoch, from 0, and how many of its batches are done."""
        self.rate_scale = 1.0
        """A factor on all learning rates; a change counts from the next step."""
        self.fitted = self.subject = model
        self.best = BestEpoch()
        self.index: int | None = None  # of the phase that runs, or has just ended
        self._running = False
        self._settings = settings
        self._recalibrate_on, self._report, self._audits = recalibrate_on, report, audit
        self._audit: Audit | None = None
        self._traced: Any = None  # what the train function was traced for
        self._tested: Any = None  # the same of the test function
        for phase in self.phases:
            settings.check(phase)
            if phase.batch_norm == "recalibrate" and recalibrate_on is None:
                raise UserError(
                    f"phase {phase.name!r}: batch_norm recalibrate needs recalibrate_on=BATCHES."
                )

    @property
    def phase(self) -> Phase:
        """The phase that is running, or the first one before training."""
        return self.phases[self.index or 0]

    @property
    def optimizer(self) -> PhasedOptimizer:
        """The optimizer for all phases, once `prepare` has run; before that, a UserError."""
        optimizer = phased(self.fitted.optimizer)
        if optimizer is None:
            raise UserError(
                "StagedUnfreezing: the model has no optimizer for phases yet. `fit` puts it there; "
                "before `fit`, call unfreeze.prepare(model)."
            )
        return optimizer

    def prepare(self, model: keras.Model | None = None) -> None:
        """Puts the optimizer for all phases into the model. Call it before `load_weights`.

        `fit` does it by itself. If the model has it already, nothing happens.

        Args:
            model: The model of the plan, or another that `fit` trains instead and that shares
                its optimizer; the former if left out.

        Raises:
            UserError: It is another model.
        """
        self.fitted = self.subject if model is None else model
        optimizer, groups = phased(self.fitted.optimizer), self.plan.groups()
        restores = any(phase.until and phase.until.restore_best for phase in self.phases)
        if (
            optimizer is not None
            and same_groups(optimizer.groups, groups)
            and (optimizer.keeps_best or not restores)
        ):
            return
        if self.fitted is not self.subject:
            raise UserError("StagedUnfreezing: it was made for another model than `fit` trains.")
        with self.fitted.distribute_strategy.scope():
            install(
                self.fitted,
                groups,
                clock=len(self.phases) + BestEpoch.SIZE,
                best=self.subject.weights if restores else (),
                names=self._names_of_gradients(),
            )
        size = sum(map(bytes_of, self.fitted.optimizer.variables))
        self.plan = dataclasses.replace(self.plan, optimizer_bytes=size)

    def _names_of_gradients(self) -> dict[int, str]:
        # A person's `fit` pays nothing for norms that no callback reads, and keeps its numbers to
        # the bit: TensorFlow orders other arithmetic if a gradient has two uses.
        return {}

    def start(self, steps_per_epoch: int | None = None) -> None:
        """Begins a training: the next `move_to` enters the phase of its position.

        Raises:
            UserError: The model has changed since the plan was made.
        """
        for planned in self.plan.phases:
            check_own_flags(planned.trained)
        check_all_known(self.subject, self.plan.weights)
        if not same_groups(self.optimizer.groups, self.plan.groups()):
            raise UserError("StagedUnfreezing: `fit` got two of them, and they have other phases.")
        steps = steps_per_epoch or self.plan.steps_per_epoch
        self.clock = PhaseClock(self.phases, steps, self.plan.accumulation)
        self.index = self._traced = None

    def move_to(self, epoch: int, batch: int) -> None:
        """Makes all ready for a batch of an epoch, both from 0: the phase, its flags, the rate.

        `fit` calls it by itself. A training loop of your own calls it before each step, and `close`
        after the last one.
        """
        self.position, time = (epoch, batch), self.clock.time(epoch, batch)
        if self.index is not None and self.clock.locate(time)[0] < self.index:
            self.start(self.clock.steps_per_epoch)  # a loop of your own begins again
        if self.index is None:
            self.prepare(self.fitted)
            self._read_clock(epoch)
            begins = self.clock.locate(time)[0]
            if 0 <= self.best.phase < begins:  # the checkpoint was written before its phase closed
                self._restore_best(self.phases[self.best.phase])
            self.enter(begins)
        index, since = self.clock.locate(time)
        while index > (self.index or 0) and self._between_updates():
            self.clock.ends[self.index or 0] = time
            self.enter((self.index or 0) + 1)
            index, since = self.clock.locate(time)
        self._steer(time - self.clock.start(self.index or 0))

    def enter(self, index: int) -> None:
        """Ends the phase that runs and begins another, at the rate of its first step."""
        self.prepare(self.fitted)
        self.close()
        phase, trained = self.phases[index], self.plan.phases[index].trained
        self.index, self._running = index, True
        if phase.batch_norm == "recalibrate" and self._recalibrate_on is not None:
            recalibrate_batch_norm(self.subject, self._recalibrate_on)
        self.set_up(index)
        self.optimizer.enter(index)
        if self.best.phase != index:  # otherwise it was loaded
            self.best = BestEpoch(index)
        self.keep_clock()
        self._steer(0)
        self._audit = Audit(self.subject, trained) if self._audits else None
        if self._report is not None:
            self._report(describe_start(phase, trained))

    def set_flags(self, index: int) -> None:
        """Sets the `trainable` flags of a phase and nothing else."""
        planned = self.plan.phases[index]
        set_trainable(self.subject, planned.trained, planned.phase.batch_norm)

    def set_up(self, index: int) -> None:
        """Sets flags and settings of a phase; what they change of `fit` is traced again."""
        phase, together = self.phases[index], self.fitted.steps_per_execution
        self.set_flags(index)
        self._settings.apply(phase)
        self.optimizer.steps_together(together)
        tested = (self.fitted, phase.label_smoothing, together)
        settings = (phase.batch_norm, phase.dropout)
        traced = (frozenset(self.plan.phases[index].shares), settings, tested)
        if traced != self._traced:  # `fit` traces once, for the flags of that moment
            self.fitted.make_train_function(force=True)
        if tested != self._tested:
            self.fitted.make_test_function(force=True)
        self._traced, self._tested = traced, tested

    def judge(self, logs: dict[str, Any]) -> None:
        """Looks at the metrics of the epoch that has ended, which may end the phase."""
        epoch, until = self.position[0], self.phase.until
        if until is not None:
            who = f"phase {self.phase.name!r}: until.metric"
            if self.best.judge(until, epoch, logs, who) and until.restore_best:
                self.optimizer.keep_best(self.subject.weights)
            if self.best.over(until):
                self.clock.stop(self.index or 0, self.clock.time(epoch))
        self.keep_clock()

    def close(self) -> None:
        """Ends the phase that runs: puts its best weights back, if it asks for them, and audits.

        Raises:
            TrainingError: A frozen weight moved.
        """
        if not self._running:
            return
        self._running = False
        self._restore_best(self.phase)
        audit, self._audit = self._audit, None
        if audit is not None:
            self.verdicts[self.phase.name] = verdict = audit.verdict()
            verdict.check(self.phase.name)

    def _steer(self, since: int) -> None:
        count, steps = self.fitted.steps_per_execution, self.clock.steps_per_epoch
        count = max(1, min(count, steps - self.position[1])) if steps else 1
        rates = [self.clock.rate(self.index or 0, since + i) for i in range(count)]
        self.optimizer.steer([self.rate_scale * rate for rate in rates])

    def _restore_best(self, phase: Phase) -> None:
        if self.best.known and phase.until is not None and phase.until.restore_best:
            self.optimizer.restore_best(self.subject.weights)

    def _between_updates(self) -> bool:
        # Time does not tell: loss scaling skips batches, and time may count epochs.
        every = self.plan.accumulation
        return (
            every == 1 or int(keras.ops.convert_to_numpy(self.optimizer.micro_steps)) % every == 0
        )

    # The optimizer's state holds what cannot be told from the epoch: so it is in any checkpoint.

    def keep_clock(self) -> None:
        """Writes the ends of phases and the best epoch into the optimizer's state."""
        self.optimizer.clock.assign([*self.clock.ends, *self.best.numbers()])

    def _read_clock(self, epoch: int) -> None:
        if epoch == 0:
            self.best = BestEpoch()
            return
        if not int(keras.ops.convert_to_numpy(self.optimizer.micro_steps)):
            raise UserError(
                f"training starts at epoch {epoch + 1}, and the optimizer has not taken a step. "
                "To resume, call unfreeze.prepare(model) and then model.load_weights(FILE), or use "
                "keras.callbacks.BackupAndRestore; to begin, start at the first epoch."
            )
        numbers = keras.ops.convert_to_numpy(self.optimizer.clock).tolist()
        count = len(self.phases)
        self.clock.ends = numbers[:count]
        self.best = BestEpoch.of(numbers[count:])
        self.best.check(self.phases, epoch)
