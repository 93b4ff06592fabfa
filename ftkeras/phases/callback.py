"""StagedUnfreezing: moves one `model.fit` from phase to phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from ftkeras.backbones import Block
from ftkeras.errors import TrainingError, UserError
from ftkeras.phases.audit import Audit, Verdict
from ftkeras.phases.freezing import set_trainable, trained_weights
from ftkeras.phases.phase import Phase, check_phases
from ftkeras.phases.rates import WeightRates, innermost, rate_shares
from ftkeras.phases.schedule import learning_rate, locate
from ftkeras.phases.selectors import Weight, weights_of


class StagedUnfreezing(keras.callbacks.Callback):
    """Trains a model in phases within one `fit`; the optimizer keeps its state throughout.

    Making the callback builds the model's optimizer on every weight that any phase will train, so
    that slots exist before they are needed, and sets the flags of the first phase. At each phase's
    first epoch the callback sets the `trainable` flags, has the train function built anew (without
    that Keras goes on training what it traced first), and moves to the phase's own learning rate.
    At each phase's end it proves by fingerprints that nothing frozen has changed.

    Args:
        model: A compiled model, the one whose `fit` gets this callback.
        phases: The phases, in order.
        blocks: The model's blocks from input to output, usually `backbone.blocks`; see `weights_of`
            for what stands in when left out.
        audit: Whether to check at each phase's end that what was frozen did not move.
        report: Gets one line for each transition; `print` shows them.

    Raises:
        UserError: A selector selects nothing, the model isn't compiled, or its optimizer was
            already built without a weight that a phase trains.
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
        audit: bool = True,
        report: Callable[[str], None] | None = None,
    ):
        super().__init__()
        if not model.compiled:
            raise UserError("StagedUnfreezing: compile the model first; phases need its optimizer.")
        self.phases = check_phases(phases)
        self.verdicts: dict[str, Verdict] = {}
        self._weights = weights_of(model, blocks)
        self._trained = tuple(
            trained_weights(self._weights, phase.train, phase.batch_norm) for phase in self.phases
        )
        self._audits = audit
        self._audit: Audit | None = None
        self._report = report
        self._current: int | None = None
        self._epoch_in_phase = 0
        self._shares = tuple(
            rate_shares(self._weights, phase, trained)
            for phase, trained in zip(self.phases, self._trained, strict=True)
        )
        self._build_optimizer(model)
        self._rates = WeightRates(model.optimizer)
        set_trainable(model, self._trained[0], self.phases[0].batch_norm)

    @property
    def epochs(self) -> int:
        """The epochs of all phases together: what to give to `fit`."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def phase(self) -> Phase:
        """The phase that is running, or the first one before training."""
        return self.phases[self._current or 0]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._current = None  # `fit` may be called again, or start at a later epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        index, self._epoch_in_phase = locate(self.phases, epoch)
        if index != self._current:
            self._leave()
            self._enter(index)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Where the number of steps is unknown (a generator), the rate moves once an epoch.
        steps = (self.params or {}).get("steps")
        step = self._epoch_in_phase * steps + batch if steps else self._epoch_in_phase
        total = self.phase.epochs * (steps or 1)
        self.model.optimizer.learning_rate = learning_rate(self.phase, min(step, total - 1), total)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(
                keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._leave()

    def _build_optimizer(self, model: keras.Model) -> None:
        """Builds on the union of all phases: an optimizer refuses weights it wasn't built on.

        This has to come before `fit`, which under a strategy builds on the weights that train at that
        moment before it calls any callback.
        """
        ever = {id(weight.variable) for trained in self._trained for weight in trained}
        union = [weight.variable for weight in self._weights.all if id(weight.variable) in ever]
        optimizer = model.optimizer
        if not optimizer.built:
            strategy = model.distribute_strategy
            if strategy is None:
                optimizer.build(union)
            else:
                with strategy.scope():
                    optimizer.build(union)
            return
        known = {id(variable) for variable in innermost(optimizer)._trainable_variables}
        unknown = [weight.path for weight in self._weights.all if id(weight.variable) in ever - known]
        if unknown:
            raise UserError(
                f"StagedUnfreezing: the optimizer was already built without {unknown[0]!r} and "
                f"{len(unknown) - 1} other weights that a phase trains. Compile the model with a new "
                "optimizer before making the callback."
            )

    def _enter(self, index: int) -> None:
        phase, trained = self.phases[index], self._trained[index]
        self._current = index
        set_trainable(self.model, trained, phase.batch_norm)
        self._rates.set(self._shares[index])
        # `fit` traced the train function for the flags of the moment; it must be traced again.
        self.model.make_train_function(force=True)
        if self._audits:
            self._audit = Audit(self.model, trained)
        if self._report is not None:
            self._report(_describe(phase, trained))

    def _leave(self) -> None:
        self._rates.stop()
        if self._current is None or self._audit is None:
            return
        verdict, self._audit = self._audit.verdict(), None
        self.verdicts[self.phase.name] = verdict
        if verdict.drifted:
            names = ", ".join(verdict.drifted[:5])
            raise TrainingError(
                f"phase {self.phase.name!r}: {len(verdict.drifted)} frozen variables changed: {names}. "
                "Something other than the optimizer writes to them."
            )


def _describe(phase: Phase, trained: Sequence[Weight]) -> str:
    count = sum(weight.size for weight in trained)
    return (
        f"phase {phase.name}: trains {', '.join(phase.train)} ({count:,} parameters), "
        f"learning rate {phase.learning_rate:g}, {phase.epochs} epochs"
    )
