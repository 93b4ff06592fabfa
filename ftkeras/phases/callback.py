"""StagedUnfreezing: moves one `model.fit` from phase to phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.backbones import Block
from ftkeras.errors import UserError
from ftkeras.phases.install import template_of
from ftkeras.phases.phase import Phase
from ftkeras.phases.plan import Plan, make_plan
from ftkeras.phases.runner import PlanRunner
from ftkeras.phases.selectors import weights_of
from ftkeras.phases.settings import Settings
from ftkeras.phases.template import check_template

Logs = dict[str, Any]


class StagedUnfreezing(PlanRunner, keras.callbacks.Callback):
    """Trains a model in phases within one `fit`; the optimizer keeps its state throughout.

    When `fit` begins, the callback puts a `PhasedOptimizer` in place of the model's optimizer: a
    wrapper around copies of it. When a phase begins, it sets the `trainable` flags, and has the
    train function traced again if other weights train. When a phase ends, it proves by fingerprints
    that nothing frozen has changed.

    A second `fit` begins with the first phase and keeps momenta and step counts, also with another
    callback of the same phases; `initial_epoch` resumes instead. After `compile`, or with other
    phases, the optimizer is new. List callbacks that write checkpoints after this one, and so
    `SwapEMAWeights` if a phase has `until`. What callbacks after this one do when the last epoch
    ends is not audited.

    Args:
        model: A compiled model, the one whose `fit` gets this callback.
        phases: The phases, in order; or a `Plan` of this model.
        blocks: The model's blocks from input to output, usually `backbone.blocks`; see `weights_of`
            for the default.
        steps_per_epoch: How many batches an epoch has; needed if a phase's length is in steps.
        recalibrate_on: Batches for phases with `batch_norm="recalibrate"`.
        audit: Whether to check at each phase's end that what was frozen did not move.
        report: Gets one line for each transition; `print` shows them.

    Raises:
        UserError: A selector selects nothing, the model isn't compiled, its optimizer cannot be
            used with phases (a schedule, several optimizers), or a phase needs what is missing.
            When training begins: another callback sets the learning rate, or `fit` starts at a
            later epoch and the optimizer's state was not loaded.
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
        phases: Sequence[Phase] | Plan,
        *,
        blocks: Sequence[Block] | None = None,
        steps_per_epoch: int | None = None,
        recalibrate_on: tf.data.Dataset | None = None,
        audit: bool = True,
        report: Callable[[str], None] | None = None,
    ):
        if not model.compiled:
            raise UserError("StagedUnfreezing: compile the model first; phases need its optimizer.")
        check_template(template_of(model.optimizer))
        if not isinstance(phases, Plan):
            weights = weights_of(model, blocks)
            phases = make_plan(model, weights, phases, steps_per_epoch=steps_per_epoch)
        keras.callbacks.Callback.__init__(self)
        PlanRunner.__init__(
            self,
            model,
            phases,
            Settings(model, blocks),
            recalibrate_on=recalibrate_on,
            audit=audit,
            report=report,
        )
        self.first_batch = 0  # what Keras calls batch 0, if an epoch resumes in the middle
        self._fresh = True  # whether this `fit` has not trained a batch yet

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self.prepare(model)
        self.optimizer.watch()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._fresh = True
        self.start((self.params or {}).get("steps"))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.position = (epoch, self.first_batch)
        # Averages may stand in the model until the epoch has begun for every callback.
        if not self.optimizer.use_ema:
            self.move_to(*self.position)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        if self._fresh and self.optimizer.touched:
            raise UserError(
                "a callback sets the learning rate when training or an epoch begins "
                "(LearningRateScheduler?), and the phases set it, too. Leave that callback out; "
                "Phase(warmup=..., decay=...) shapes the rate."
            )
        self._fresh = False
        self.move_to(self.position[0], self.first_batch + batch)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        epoch, done = self.position[0], self.first_batch + batch + 1
        steps = self.clock.steps_per_epoch
        # Several steps per call: Keras counts as if the last call of an epoch were always full.
        self.position = (epoch, min(done, steps or done))
        if steps and self.clock.over(self.clock.time(*self.position)):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = {} if logs is None else logs
        if "learning_rate" not in logs:  # a callback may have lowered and logged it
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))
        self.position, self.first_batch = (epoch + 1, 0), 0
        self.judge(logs)
        if self.clock.over(self.clock.time(*self.position)):
            self.model.stop_training = True
        # Before another callback restores weights (EarlyStopping), which the audit would find.
        if self.model.stop_training or epoch + 1 >= (self.params or {}).get("epochs", math.inf):
            self.close()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.close()
