"""StagedUnfreezing: moves one `model.fit` from phase to phase."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.backbones import Block
from ftkeras.errors import TrainingError, UserError
from ftkeras.keras_internals import weights_of_optimizer
from ftkeras.phases.audit import Audit, AuditResult
from ftkeras.phases.best import BestEpoch
from ftkeras.phases.freezing import check_own_flags, set_trainable, trained_weights
from ftkeras.phases.phase import Phase, resolve_phases
from ftkeras.phases.plan import describe_length
from ftkeras.phases.rates import WeightRates, innermost, rate_shares
from ftkeras.phases.recalibrate import recalibrate_batch_norm
from ftkeras.phases.schedule import learning_rate, locate
from ftkeras.phases.selectors import Weight, weights_of
from ftkeras.phases.settings import Settings

Logs = dict[str, Any]


class StagedUnfreezing(keras.callbacks.Callback):
    """Trains a model in phases within one `fit`; the optimizer keeps its state throughout.

    Making the callback builds the model's optimizer on every weight that any phase will train, so
    that slots exist before they are needed, and sets the flags of the first phase. Where a phase
    begins, the callback sets the `trainable` flags, has the train function built anew (without that
    Keras goes on training what it traced first), gives each weight its share of the rate, and lets
    weights that start now start with their own step count. Where a phase ends, it proves by
    fingerprints that nothing frozen has changed.

    Args:
        model: A compiled model, the one whose `fit` gets this callback.
        phases: The phases, in order.
        blocks: The model's blocks from input to output, usually `backbone.blocks`; see `weights_of`
            for what stands in when left out.
        steps_per_epoch: How many batches an epoch has; needed where a phase's length is in steps.
        recalibrate_on: Batches for phases with `batch_norm="recalibrate"`.
        audit: Whether to check at each phase's end that what was frozen did not move.
        report: Gets one line for each transition; `print` shows them.

    Raises:
        UserError: A selector selects nothing, the model isn't compiled, its optimizer was already
            built without a weight that a phase trains, or a phase needs what wasn't given.
        TrainingError: (at the end of a phase) A frozen weight moved.

    Example:
        ```python
        model.compile(keras.optimizers.AdamW(), loss="categorical_crossentropy")
        unfreeze = ftkeras.StagedUnfreezing(model, [
            ftkeras.Phase("head", train=["head"], epochs=3, learning_rate=1e-3),
            ftkeras.Phase("top", train=["head", "blocks[-2:]"], epochs=5, learning_rate=1e-4),
        ], blocks=backbone.blocks)
        model.fit(images, labels, epochs=unfreeze.epochs, callbacks=[unfreeze])
        ```
    """

    def __init__(
        self,
        model: keras.Model,
        phases: Sequence[Phase],
        *,
        blocks: Sequence[Block] | None = None,
        steps_per_epoch: int | None = None,
        recalibrate_on: tf.data.Dataset | None = None,
        audit: bool = True,
        report: Callable[[str], None] | None = None,
    ):
        super().__init__()
        if not model.compiled:
            raise UserError("StagedUnfreezing: compile the model first; phases need its optimizer.")
        self.phases = resolve_phases(phases)
        self.epochs = _epochs(self.phases, steps_per_epoch)
        """The epochs of all phases together, at most: what to give to `fit`."""
        self.verdicts: dict[str, AuditResult] = {}
        """What the audit of each phase that has ended found."""
        self.rate_scale = 1.0
        """A factor on all learning rates; a change counts from the next step.

        Where one call does several steps, it counts from the next phase or `fit`.
        """
        self.one_fit_a_phase = False
        """Whether another `fit` trains the next phase: then `fit` should end where a phase does."""
        self._subject = model
        self._weights = weights_of(model, blocks)
        self._trained = tuple(
            trained_weights(self._weights, phase.train, phase.batch_norm) for phase in self.phases
        )
        self._shares = tuple(
            rate_shares(self._weights, phase, trained)
            for phase, trained in zip(self.phases, self._trained, strict=True)
        )
        self._steps_per_epoch = steps_per_epoch
        self._recalibrate_on = recalibrate_on
        self._report = report
        self._audits = audit
        self._audit: Audit | None = None
        self._best = BestEpoch()
        self._index: int | None = None
        self._epochs_before = 0.0  # how far into the phase this epoch began, in epochs
        self._over = False  # whether the phase has ended ahead of its length
        self._epoch = 0
        self._batches = 0  # how many batches of this epoch are done
        self._first_batch = 0  # what Keras calls batch 0, where it goes on within an epoch
        self._cut = self._loaded = False
        self._settings = Settings(model, blocks)
        self._check()
        self._build_optimizer(model)
        groups = {id(weight.variable): weight.block or "head" for weight in self._weights.all}
        self._rates = WeightRates(model.optimizer, groups)
        self.set_flags(0)

    @property
    def phase(self) -> Phase:
        """The phase that is running, or the first one before training."""
        return self.phases[self._index or 0]

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, from 0, and how many of its batches are done."""
        return self._epoch, self._batches

    @property
    def paused(self) -> bool:
        """Whether a phase has ended and its `fit` should, because another trains the next."""
        return self.one_fit_a_phase and self._to_leave()

    def upcoming(self) -> int:
        """Leaves a phase that has ended; returns the index of that which the next `fit` trains."""
        ended = self._to_leave()
        if ended:
            self._leave()
        return (self._index or 0) + ended

    def group_rates(self) -> dict[str, float]:
        """Returns the learning rate at this moment of the head and of each block that trains."""
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        shares = self._shares[self._index or 0]
        rates: dict[str, float] = {}
        for weight in self._trained[self._index or 0]:
            share = shares[id(weight.variable)] * rate
            group = weight.block or "head"
            rates[group] = max(rates.get(group, 0.0), share)
        return rates

    def gradient_norms(self) -> dict[str, float]:
        """Returns the gradient norm of the head and of each block that trains.

        Root mean square over the updates since this was last asked, after clipping; a group whose
        gradients were all zero is left out.
        """
        return self._rates.gradient_norms()

    def training_groups(self) -> list[str]:
        """Returns which of the head and the blocks train in the phase that is running."""
        trained = self._trained[self._index or 0]
        return list(dict.fromkeys(weight.block or "head" for weight in trained))

    def set_flags(self, index: int) -> None:
        """Sets the `trainable` flags of a phase and nothing else, to look at the model with."""
        set_trainable(self._subject, self._trained[index], self.phases[index].batch_norm)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not (self._loaded or self.one_fit_a_phase):
            self._index = None  # `fit` may be called again, or start at a later epoch
        self._loaded = False
        self._steps_per_epoch = (self.params or {}).get("steps") or self._steps_per_epoch
        for trained in self._trained:
            check_own_flags(trained)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch, self._batches = epoch, self._first_batch
        if self._index is None:
            index, self._epochs_before = locate(self.phases, epoch, self._steps_per_epoch)
            self.enter(index)
        self._move_on(self._first_batch)
        self._lay_out_rates(self._first_batch)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        batch += self._first_batch
        self._move_on(batch)
        # Of several steps a call, the last one's; Keras names the first.
        last = self._within_epoch(batch + self.model.steps_per_execution) - 1
        # Where nobody knows how many steps an epoch has, the rate moves once an epoch.
        step = self._in_steps(self._epochs_before) + self._passed(last)
        self.model.optimizer.learning_rate = self._rate(step)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._batches = self._within_epoch(self._first_batch + batch + 1)
        if self._last() and self._steps_per_epoch and self._ended(self._batches):
            self.model.stop_training = True
        elif self._first_batch and self._batches == self._steps_per_epoch:
            # Keras would ask an epoch that began in the middle for as many batches as any other.
            self.model.stop_training = self._cut = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._cut:
            self.model.stop_training = self._cut = False
        logs = {} if logs is None else logs
        logs["learning_rate"] = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )
        self._epoch, self._batches, self._first_batch = epoch + 1, 0, 0
        self._epochs_before += 1
        if self.phase.until is not None:
            self._over = self._best.over(self.phase, logs, self.model)
        if self._last() and self._ended(0):
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._leave()

    # --------------------------------------------------------------------------- resuming

    def state(self) -> dict[str, Any]:
        """Returns where it stands: plain values and arrays. Ask between steps or epochs.

        The model's and the optimizer's variables are not in it.
        """
        return {
            "epoch": self._epoch,
            "batches": self._batches,
            "phase": self._index,
            "epochs_before": self._epochs_before,
            "over": self._over,
            "rate_scale": self.rate_scale,
            "best": self._best.state(),
            "rates": self._rates.state(),
            "audit": None if self._audit is None else self._audit.state(),
            "verdicts": {name: dataclasses.asdict(v) for name, v in self.verdicts.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned, also within an epoch, in the next `fit`.

        Give that `fit` `initial_epoch=unfreeze.position[0]`, and for the first epoch only the
        batches that are left; load the model's and the optimizer's variables too.
        """
        self.set_model(self._subject)
        self._epoch, self._first_batch = state["epoch"], state["batches"]
        self._batches, self._cut = self._first_batch, False
        self._index, self._epochs_before = state["phase"], state["epochs_before"]
        self._over, self.rate_scale = state["over"], state["rate_scale"]
        self._best.load_state(state["best"])
        self.verdicts = {name: AuditResult.of(fields) for name, fields in state["verdicts"].items()}
        self._loaded, self._audit = True, None
        index = self._index or 0
        self._set_up(index)
        self._rates.load_state(state["rates"], self._shares[index])
        if state["audit"] is not None:
            self._audit = Audit(self._subject, self._trained[index])
            self._audit.load_state(state["audit"])

    # ------------------------------------------------------------------------ transitions

    def _move_on(self, batch: int) -> None:
        """Enters the next phase if the present one has ended before this batch."""
        while self._ended(batch) and not self._last():
            overshoot = self._passed(batch) / (self._steps_per_epoch or 1)
            self._leave()
            self._epochs_before = -overshoot
            self.enter((self._index or 0) + 1)
            self._lay_out_rates(batch)

    def _ended(self, batch: int) -> bool:
        length = self.phase.length(self._steps_per_epoch)
        done = self._in_steps(self._epochs_before) + self._passed(batch)
        return self._over or done >= self._in_steps(length)

    def _to_leave(self) -> bool:
        if self._index is None or self._last():
            return False
        # A resumed run may have an epoch's validation still to do, which belongs to this phase.
        validates = bool(self._first_batch) and self._first_batch == self._steps_per_epoch
        return not validates and self._ended(self._first_batch)

    def _last(self) -> bool:
        return self._index == len(self.phases) - 1

    def _passed(self, batch: int) -> int:
        return batch if self._steps_per_epoch else 0

    def _within_epoch(self, batches: int) -> int:
        # Several steps a call: Keras counts as if the last call of an epoch were always full.
        return min(batches, self._steps_per_epoch or batches)

    def _rate(self, step: int) -> float:
        total = self._in_steps(self.phase.length(self._steps_per_epoch))
        return self.rate_scale * learning_rate(self.phase, min(step, total - 1), total)

    def _lay_out_rates(self, batch: int) -> None:
        """Gives the optimizer all rates of the phase where one call of `fit` does several steps."""
        if self.model.steps_per_execution == 1 or not self._steps_per_epoch:
            return
        total = self._in_steps(self.phase.length(self._steps_per_epoch))
        done = self._in_steps(self._epochs_before) + batch
        self._rates.lay_out([self._rate(step) for step in range(total)], done)

    def _in_steps(self, epochs: float) -> int:
        return round(epochs * (self._steps_per_epoch or 1))

    def enter(self, index: int) -> None:
        """Begins a phase; `fit` does this by itself, a training loop of your own calls it."""
        phase, trained = self.phases[index], self._trained[index]
        self._index, self._over, self._best = index, False, BestEpoch()
        if phase.batch_norm == "recalibrate" and self._recalibrate_on is not None:
            recalibrate_batch_norm(self.model, self._recalibrate_on)
        self._set_up(index)
        self._rates.set(self._shares[index])
        self._audit = Audit(self.model, trained) if self._audits else None
        if self._report is not None:
            self._report(_describe(phase, trained))

    def _set_up(self, index: int) -> None:
        phase = self.phases[index]
        self.set_flags(index)
        self._settings.apply(phase)
        # `fit` traced the train function for the flags of the moment; it must be traced again.
        self.model.make_train_function(force=True)

    def _leave(self) -> None:
        self._rates.stop()
        if self._index is None:
            return
        if self.phase.until is not None and self.phase.until.restore_best:
            self._best.restore(self.model)
        audit, self._audit = self._audit, None
        if audit is None:
            return
        verdict = audit.verdict()
        self.verdicts[self.phase.name] = verdict
        if verdict.drifted:
            names = ", ".join(verdict.drifted[:5])
            raise TrainingError(
                f"phase {self.phase.name!r}: {len(verdict.drifted)} frozen variables changed: "
                f"{names}. Something other than the optimizer writes to them."
            )

    # ------------------------------------------------------------------------ preparation

    def _check(self) -> None:
        """Refuses now what a later phase could not do."""
        for phase in self.phases:
            if phase.batch_norm == "recalibrate" and self._recalibrate_on is None:
                raise UserError(
                    f"phase {phase.name!r}: batch_norm recalibrate needs recalibrate_on=BATCHES."
                )
            self._settings.check(phase)

    def _build_optimizer(self, model: keras.Model) -> None:
        """Builds on the union of all phases: an optimizer refuses weights it wasn't built on.

        This has to come before `fit`, which under a strategy builds on the weights that train at
        that moment before it calls any callback.
        """
        ever = {id(weight.variable) for trained in self._trained for weight in trained}
        union = [weight.variable for weight in self._weights.all if id(weight.variable) in ever]
        optimizer = model.optimizer
        if not optimizer.built:
            with (model.distribute_strategy or tf.distribute.get_strategy()).scope():
                optimizer.build(union)
            return
        known = {id(variable) for variable in weights_of_optimizer(innermost(optimizer))}
        unknown = [
            weight.path for weight in self._weights.all if id(weight.variable) in ever - known
        ]
        if unknown:
            raise UserError(
                f"StagedUnfreezing: the optimizer was already built without {unknown[0]!r} and "
                f"{len(unknown) - 1} other weights that a phase trains. Compile the model with a "
                "new optimizer before making the callback."
            )


def _epochs(phases: Sequence[Phase], steps_per_epoch: int | None) -> int:
    """Returns how many epochs `fit` must offer; rounding keeps 3 x 1/3 from becoming 2."""
    return int(-(-round(sum(phase.length(steps_per_epoch) for phase in phases), 9) // 1))


def _describe(phase: Phase, trained: Sequence[Weight]) -> str:
    count = sum(weight.size for weight in trained)
    return (
        f"phase {phase.name}: trains {', '.join(phase.train)} ({count:,} parameters), "
        f"learning rate {phase.learning_rate:g}, {describe_length(phase)}"
    )
