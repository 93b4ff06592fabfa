"""When a training is saved, what it goes back to, and where it resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import keras
import numpy as np
import tensorflow as tf

from ftkeras.config.schema import CheckpointConfig, TroubleConfig
from ftkeras.console import counted
from ftkeras.errors import TrainingError
from ftkeras.phases.callback import Logs
from ftkeras.signals import Signals
from ftkeras.timeline import stage
from ftkeras.training.callbacks.divergence import Divergence
from ftkeras.training.resume import state
from ftkeras.training.resume.checkpoint import Checkpoints, States
from ftkeras.training.resume.phases import ResumableUnfreezing

_SHARE = 0.05  # of the time that saving may take if epochs are short


@dataclass(frozen=True)
class Guards:
    """What keeps a training from being lost.

    Args:
        saving: When to save besides the ends of epochs.
        trouble: What to do if the loss is not a number any more, or explodes.
        signals: What is listening for Ctrl-C, SIGTERM and SIGUSR1.
        every_epoch: Whether to save at each epoch's end, even if epochs are so short that this
            takes more than a twentieth of the time.
        from_floor: Whether the head starts from the floor: its first loss is then near 0.
        training: The training's name in the line about where it resumes, if a run has several.
    """

    saving: CheckpointConfig = CheckpointConfig()
    trouble: TroubleConfig = TroubleConfig()
    signals: Signals = field(default_factory=Signals)
    every_epoch: bool = False
    from_floor: bool = False
    training: str = ""

    def for_workers(self) -> Guards:
        """Returns those for workers in step, which save when all are at the same step.

        Reading metrics is a meeting of all workers, and a signal or a clock calls each at another
        step. So they stop at once.
        """
        saving = CheckpointConfig(every_steps=self.saving.every_steps, every_minutes=None)
        return replace(self, saving=saving, signals=Signals(), every_epoch=True)


class SavedTraining:
    """A training and its states on disk: begins with the newest, saves, and goes back.

    Args:
        checkpoints: The best weights, which the states refer to: of the whole model, whichever
            part of it is fitted.
        unfreeze: The phases, which know the position.
        parts: All that has a state, by name.
        guards: How often to go back and at what rates, and the training's name.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        unfreeze: ResumableUnfreezing,
        parts: Mapping[str, state.Stateful],
        guards: Guards,
    ):
        self.over = False
        """Whether training has come to its end."""
        self.logs: Logs | None = None
        """The training metrics of an epoch of which only the validation is to be done."""
        self.seconds = 0.0
        """How long it took to save the last time."""
        self.unfreeze = unfreeze
        self._model = self._fitted = checkpoints.subject
        self._run = checkpoints.run
        self._average = checkpoints.average
        self._checkpoints = checkpoints
        self._parts = parts
        self._trouble = guards.trouble
        self._name = guards.training
        self._states = States(self._run)
        self._metrics: state.Tree | None = None  # to be put back when the next epoch begins
        self._rollbacks: list[list[int]] = []  # [epoch, batch] of each trouble
        self._went_back_to = ""

    def begin(self) -> None:
        """Resumes from the newest state that is whole, or saves the beginning."""
        tree = self._states.newest()
        if tree is None:
            self._run.keep_records(0)
            self.save()
            return
        self._restore(tree)
        epoch, batches = self.unfreeze.position
        self._run.event("resumed", epoch=epoch, batches=batches)
        of = f" of {self._name}" if self._name else ""
        where = f"epoch {epoch + 1}, step {batches + 1}{of}"
        if self.over:
            where = f"after the last epoch{of}; the rest of the run is next"
        print(f"resumed   {where}")

    @stage("save states and weights")
    def save(self, *, over: bool = False, logs: Logs | None = None) -> None:
        """Writes a state; call it between two steps.

        Args:
            over: Whether this is the end.
            logs: The training metrics if all of the epoch but its validation is done.

        Raises:
            Divergence: A weight or its momentum isn't finite: nothing to come back to.
        """
        start = time.monotonic()
        if self._average is not None:
            self._average.unswap()  # where a validation broke off
        tree = state.take(self._model, self._fitted, self._parts)
        self._check_finite(tree)
        self.over = over
        if self._metrics is not None:  # the epoch has not begun again: the model has other values
            tree["metrics"] = self._metrics["metrics"]
        tree |= {"over": over, "logs": logs, "rollbacks": self._rollbacks}
        self._states.save(*self.unfreeze.position, tree)
        self._checkpoints.note_state()
        self.seconds = time.monotonic() - start

    def before_fit(self, fitted: keras.Model, batches: tf.data.Dataset) -> None:
        """Takes note of whose metrics count, and makes sure that `put_metrics` finds them.

        Args:
            fitted: What the next `fit` trains: the whole model or its tail.
            batches: What it trains on.
        """
        self._fitted = fitted
        if self._metrics is not None:
            state.build_metrics(fitted, batches)

    def put_metrics(self) -> None:
        """Gives the metrics their values in the midst of an epoch; Keras has just reset them."""
        if self._metrics is not None:
            state.put_metrics(self._fitted, self._metrics)
        self._metrics = None

    def go_back(self, trouble: Divergence, examples: Callable[[int, int], str]) -> None:
        """Resumes from the last good state with smaller rates.

        Args:
            trouble: What happened.
            examples: Names the examples of an epoch's batch.

        Raises:
            TrainingError: It went back as often as it may.
        """
        epoch, batch = self.unfreeze.position
        where = f"epoch {epoch + 1}, step {max(batch, 1)} (phase {self.unfreeze.phase.name})"
        self._rollbacks.append([epoch, batch])
        if len(self._rollbacks) > self._trouble.retries:
            raise TrainingError(self._advice(trouble, where, examples))
        if self._states.names()[-1:] == [self._went_back_to] and len(self._states.names()) > 1:
            self._states.remove_newest()  # it led here twice: the trouble may be in it already
        tree = self._states.newest()
        if tree is None:
            raise TrainingError(f"{where}: {trouble}, and there is no checkpoint to go back to.")
        rollbacks, self._went_back_to = self._rollbacks, self._states.names()[-1]
        self._restore(tree)
        self._rollbacks = rollbacks
        self.unfreeze.rate_scale = self._trouble.shrink ** len(rollbacks)
        self.save(over=self.over, logs=self.logs)  # a run killed now resumes with these rates
        to_epoch, to_batch = self.unfreeze.position
        self._run.event(
            "rollback",
            reason=str(trouble),
            epoch=epoch,
            batches=batch,
            to_epoch=to_epoch,
            to_batches=to_batch,
            rate_scale=self.unfreeze.rate_scale,
        )
        print(
            f"trouble   {where}: {trouble}; going back to epoch {to_epoch + 1}, step "
            f"{to_batch + 1}, with rates times {self.unfreeze.rate_scale:g}"
        )

    def _restore(self, tree: state.Tree) -> None:
        if self._average is not None:
            self._average.unswap()
        state.put_back(self._model, self._parts, tree)
        self.over, self.logs = tree["over"], tree["logs"]
        self._rollbacks = tree["rollbacks"]
        self._metrics = tree if self.unfreeze.position[1] and self.logs is None else None

    def _check_finite(self, tree: state.Tree) -> None:
        groups = self.unfreeze.optimizer.groups
        trained = {id(weight) for group in groups for weight in group.weights}
        values = [
            *zip(self._model.variables, tree["model"], strict=True),
            *zip(self._model.optimizer.variables, tree["optimizer"], strict=True),
        ]
        for number, (variable, value) in enumerate(values):
            checked = number >= len(tree["model"]) or id(variable) in trained
            # What is no floating-point number is finite; bfloat16 is not known to NumPy as one.
            if checked and not np.isfinite(value.astype(np.float32)).all():
                raise Divergence(f"{variable.path} has values that are not finite")

    def _advice(self, trouble: Divergence, where: str, examples: Callable[[int, int], str]) -> str:
        went = len(self._rollbacks) - 1
        tried = f", also after going back {counted(went, 'time')} to smaller rates" if went else ""
        epoch, batch = self._rollbacks[-1]  # how many batches were done, the bad one included
        if went and batch and all(position == [epoch, batch] for position in self._rollbacks):
            named = examples(epoch, batch - 1)
            look = f"It is the same step each time: look at its examples ({named})"
        else:
            look = "Look at the phase's learning_rate"
        return (
            f"{where}: {trouble}{tried}. {look}, at optimizer.clip_norm, and at the gradient norms "
            "in logs/."
        )


class Saver(keras.callbacks.Callback):
    """Saves a training when it is time, or on request; pass it to `fit` last.

    So all other callbacks have seen the step or the epoch that has ended.
    """

    def __init__(self, saved: SavedTraining, steps_per_epoch: int, guards: Guards):
        super().__init__()
        self._saved = saved
        self._unfreeze = saved.unfreeze
        self._signals = guards.signals
        self._steps_per_epoch = steps_per_epoch
        self._guards = guards
        self._at = time.monotonic()
        self._logs: Logs = {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._saved.put_metrics()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        epoch, done = self._unfreeze.position
        if done == self._steps_per_epoch or self.model.stop_training:
            return  # the epoch's end is near, which knows more
        if self._signals.stop_asked:
            self._saved.save()
            self._signals.stop()
        steps, minutes = self._guards.saving.every_steps, self._guards.saving.every_minutes
        passed = epoch * self._steps_per_epoch + done
        late = minutes is not None and time.monotonic() - self._at >= 60 * minutes
        if self._signals.save_asked or late or (steps is not None and passed % steps == 0):
            self._save()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        if self._saved.logs is not None:  # only the validation is repeated: a run that was stopped
            self._logs = self._saved.logs
            return
        # Keras holds the epoch's own metrics in a variable of its function, and resets them now.
        results = self.model.get_metrics_result()
        self._logs = {name: float(value) for name, value in results.items()}

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._signals.stop_asked:
            self._saved.save(logs=self._logs)
            self._signals.stop()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        over = self.model.stop_training or epoch + 1 >= self._unfreeze.epochs
        # What a kill would lose has taken so much longer than saving it does.
        pays = time.monotonic() - self._at >= self._saved.seconds / _SHARE
        pays = pays or self._guards.every_epoch
        saved = over or pays or self._unfreeze.paused or self._signals.save_asked
        if saved:
            self._save(over=over)
        if self._unfreeze.paused:
            self.model.stop_training = True  # not before: `over` is whether others ask for it
        if self._signals.stop_asked:
            if not saved:
                self._saved.save()
            self._signals.stop()

    def _save(self, over: bool = False) -> None:
        self._saved.save(over=over)
        self._at = time.monotonic()
        if self._signals.save_asked:
            self._signals.save_asked = False
            print("checkpoint written, as asked")
