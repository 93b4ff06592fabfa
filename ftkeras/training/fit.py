"""Runs a plan: one `model.fit` through all phases, or one a phase where the trunk is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.data.feed import Feed
from ftkeras.devices.workers import in_step_with_others, spread
from ftkeras.run import Run
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.callbacks.divergence import Divergence, DivergencePolicy, DivergenceWatch
from ftkeras.training.callbacks.health import GroupHealth
from ftkeras.training.callbacks.position import DataPosition
from ftkeras.training.callbacks.progress import FitProgress
from ftkeras.training.callbacks.record import EpochBoard, EpochRecord
from ftkeras.training.executions import doing_together, steps_together
from ftkeras.training.pointwise import quick_pointwise_gradients
from ftkeras.training.resume.checkpoint import Checkpoints, save_last
from ftkeras.training.resume.phases import ResumableUnfreezing
from ftkeras.training.resume.saving import SavedTraining, Saver, SavingOptions
from ftkeras.training.resume.signals import Signals
from ftkeras.training.resume.state import Stateful
from ftkeras.training.segments import segments
from ftkeras.trunk.plan import TrunkPlan


def fit(
    model: keras.Model,
    feed: Feed,
    *,
    unfreeze: ResumableUnfreezing,
    run: Run,
    monitor: str,
    average: AveragedWeights | None = None,
    trunk: TrunkPlan | None = None,
    saving: SavingOptions | None = None,
    trouble: DivergencePolicy | None = None,
    signals: Signals | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Checkpoints:
    """Trains a compiled model through all phases and keeps the record in the run's folder.

    Where that holds the state of a training that was stopped or killed, it goes on from there.

    Args:
        model: A compiled model, as it was built for the beginning.
        feed: Where batches of (images, labels[, weights]) come from.
        unfreeze: The phases.
        run: Where metrics, checkpoints and TensorBoard logs go.
        monitor: The logged metric that tells the best epoch.
        average: Keeps a moving average of the weights; validation and the best checkpoint use it.
        trunk: Says in which phases what is frozen runs once, and training goes on from what it
            gave; None runs it anew every epoch.
        saving: When to save besides where epochs end.
        trouble: What to do where the loss is no number any more, or explodes.
        signals: What is listening for Ctrl-C, SIGTERM and SIGUSR1.
        callbacks: More callbacks; they see the logs with the phase's learning rate in them. One
            that has `state` and `load_state` goes on where it was.

    Returns:
        The checkpoint callback, which knows the best epoch.

    Raises:
        TrainingError: A frozen weight moved, `monitor` isn't logged, or the numbers are in trouble.
        Interrupted: (after saving) Someone pressed Ctrl-C.
        Preempted: (after saving) SIGTERM came.
    """
    signals, trouble = signals or Signals(), trouble or DivergencePolicy()
    saving = saving or SavingOptions()
    unfreeze.prepare()  # the states on disk hold its optimizer
    checkpoints = Checkpoints(model, run, monitor, average)
    progress = FitProgress(unfreeze, feed.steps_per_epoch)
    all_callbacks: list[keras.callbacks.Callback] = [
        unfreeze,  # before those that read its phase, its learning rate and its position
        DivergenceWatch(unfreeze, trouble.explosion),
        *([] if average is None else [average]),
        DataPosition(feed, unfreeze),
        EpochRecord(run, unfreeze),
        progress,
        checkpoints,
        EpochBoard(run.path("logs"), write_graph=False),
        GroupHealth(run, unfreeze, report=print),
        *callbacks,
    ]
    saved = SavedTraining(
        model,
        run,
        unfreeze=unfreeze,
        average=average,
        checkpoints=checkpoints,
        parts=_parts([*all_callbacks, trunk]),
        trouble=trouble,
    )
    if in_step_with_others(model.distribute_strategy):
        # Reading metrics is a meeting of all workers; a signal or a clock calls each at another
        # step. So they save where all are at the same, and stop at once.
        signals = Signals()
        saving = SavingOptions(saving.every_steps, every_minutes=None, every_epoch=True)
    all_callbacks.append(Saver(saved, unfreeze, signals, feed.steps_per_epoch, saving))
    saved.begin()
    every_steps = saving.every_steps
    try:
        while not saved.over:
            try:
                _train(model, feed, unfreeze, trunk, saved, all_callbacks, every_steps, signals)
                saved.over = True
            except Divergence as divergence:
                saved.go_back(divergence, feed.name_examples)
    except BaseException:
        if average is not None:
            average.unswap()  # where validation was interrupted, the averages are in the model
        save_last(model, run)
        raise
    finally:
        progress.close()
    save_last(model, run)
    unfreeze.on_train_end()  # once more, for a run that was killed between the last epoch and this
    return checkpoints


def _train(
    model: keras.Model,
    feed: Feed,
    unfreeze: ResumableUnfreezing,
    trunk: TrunkPlan | None,
    saved: SavedTraining,
    callbacks: Sequence[keras.callbacks.Callback],
    every_steps: int | None,
    signals: Signals,
) -> None:
    """Trains from where `saved` stands to the end.

    A signal that comes between two calls of `fit`, while a trunk is stored for instance, stops at
    once: all that was trained is saved by then.
    """
    for stretch in segments(model, feed, unfreeze, trunk):
        fitted, (train, val) = stretch.model, stretch.batches
        together = steps_together(model, stretch.work, callbacks, every_steps)
        with quick_pointwise_gradients(fitted), doing_together(fitted, together):
            saved.before_fit(fitted, train)
            train = spread(train, model.distribute_strategy)
            val = None if val is None else spread(val, model.distribute_strategy)
            first = stretch.first_epoch
            if saved.logs is not None:
                with signals.at_steps():
                    _validate(fitted, val, first, saved.logs, callbacks)
                saved.logs, first = None, first + 1
                if saved.over:
                    return
                if unfreeze.paused:
                    continue
            if first < stretch.end_epoch:
                with signals.at_steps():
                    fitted.fit(
                        train,
                        validation_data=val,
                        initial_epoch=first,
                        epochs=stretch.end_epoch,
                        callbacks=list(callbacks),
                        shuffle=False,  # the data set does that itself
                        verbose=0,
                    )
        if saved.over:
            return


def _validate(
    model: keras.Model,
    val: tf.data.Dataset | None,
    epoch: int,
    logs: dict[str, float],
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Does what `fit` does when an epoch's last step is done."""
    listening = keras.callbacks.CallbackList(list(callbacks), model=model)
    model.stop_training = False
    metrics = model.evaluate(val, callbacks=listening, return_dict=True, verbose=0)
    listening.on_epoch_end(epoch, {**logs, **{f"val_{name}": v for name, v in metrics.items()}})


def _parts(candidates: Sequence[Any]) -> dict[str, Stateful]:
    """Returns what has a state, by name; two of one kind are numbered."""
    parts: dict[str, Stateful] = {}
    for part in candidates:
        if hasattr(part, "state") and hasattr(part, "load_state"):
            kind = type(part).__name__
            number = sum(name.partition(" ")[0] == kind for name in parts)
            parts[f"{kind} {number}"] = part
    return parts
