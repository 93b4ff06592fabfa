"""Runs a plan: one `model.fit` through all phases, or one per phase if the trunk is stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.data.feed import Feed
from ftkeras.devices.workers import in_step_with_others, spread
from ftkeras.phases.checkpointing import checkpointed
from ftkeras.timeline import recorded
from ftkeras.training.callbacks.divergence import Divergence, DivergenceWatch
from ftkeras.training.callbacks.health import GroupHealth
from ftkeras.training.callbacks.measured import MeasuredMetrics
from ftkeras.training.callbacks.record import (
    DataPosition,
    EpochBoard,
    EpochRecord,
    FitProgress,
)
from ftkeras.training.callbacks.stages import FitStages
from ftkeras.training.executions import doing_together, steps_together
from ftkeras.training.pointwise import quick_pointwise_gradients
from ftkeras.training.resume.checkpoint import Checkpoints, save_last
from ftkeras.training.resume.phases import ResumableUnfreezing
from ftkeras.training.resume.saving import Guards, SavedTraining, Saver
from ftkeras.training.resume.state import Stateful
from ftkeras.training.segments import Segment, segments
from ftkeras.trunk.plan import TrunkPlan


def fit(
    model: keras.Model,
    feed: Feed,
    *,
    unfreeze: ResumableUnfreezing,
    checkpoints: Checkpoints,
    trunk: TrunkPlan | None = None,
    guards: Guards | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    measured: MeasuredMetrics | None = None,
) -> None:
    """Trains a compiled model through all phases and keeps the record in the run's folder.

    If the folder holds the state of a training that was stopped or killed, this resumes it.

    Args:
        model: A compiled model with its first weights.
        feed: The source of batches of (inputs, labels[, weights]).
        unfreeze: The phases.
        checkpoints: Keeps the best epoch's weights. Its run takes all files. Validation and the
            best checkpoint use its moving average, if there is one.
        trunk: The phases in which frozen layers run once; None runs them again every epoch.
        guards: When to save, what to do about trouble, and which signals to handle.
        callbacks: More callbacks; their logs include the phase's learning rate. One that has
            `state` and `load_state` is resumed. In a phase that trains from a stored trunk, their
            `model` is the tail. It has the weights that train, the optimizer and the loss, but not
            the frozen layers.
        measured: Adds metrics that Keras lacks to the logs of all callbacks.

    Raises:
        TrainingError: A frozen weight moved, the metric of `checkpoints` isn't logged, or the
            numbers are in trouble.
        Interrupted: Ctrl-C was pressed; the state is saved.
        Preempted: SIGTERM came; the state is saved.
    """
    guards = guards or Guards()
    if in_step_with_others(model.distribute_strategy):
        guards = guards.for_workers()
    unfreeze.prepare()  # the states on disk hold its optimizer
    progress, stages = FitProgress(unfreeze, feed.steps_per_epoch), FitStages(unfreeze)
    own = _own_callbacks(feed, unfreeze, checkpoints, guards)
    listening = [*own, progress, *([] if recorded() is None else [stages]), *callbacks]
    saved = SavedTraining(checkpoints, unfreeze, _parts([*listening, trunk]), guards)
    listening = _between(measured, listening, Saver(saved, feed.steps_per_epoch, guards))
    saved.begin()
    try:
        while not saved.over:
            try:
                stretches = segments(model, feed, unfreeze, trunk)
                _train(stretches, saved, listening, guards, measured)
                saved.over = True
            except Divergence as divergence:
                saved.go_back(divergence, feed.name_examples)
    finally:
        stages.close()
        progress.close()
        if checkpoints.average is not None:
            checkpoints.average.unswap()  # an interrupted validation leaves averages in the model
        save_last(model, checkpoints.run)
    unfreeze.on_train_end()  # again, for a run that was killed between the last epoch and this


def _own_callbacks(
    feed: Feed, unfreeze: ResumableUnfreezing, checkpoints: Checkpoints, guards: Guards
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that every training has."""
    run, average = checkpoints.run, checkpoints.average
    return [
        unfreeze,  # before those that read its phase, its learning rate and its position
        DivergenceWatch(unfreeze, guards.trouble.explosion, guards.from_floor),
        *([] if average is None else [average]),
        DataPosition(feed, unfreeze),
        EpochRecord(run, unfreeze),
        checkpoints,
        EpochBoard(run.path("logs"), write_graph=False),
        GroupHealth(run, unfreeze, report=print),
    ]


def _between(
    measured: MeasuredMetrics | None, callbacks: list[keras.callbacks.Callback], saver: Saver
) -> list[keras.callbacks.Callback]:
    """Returns all callbacks in order: those that add to the logs first, the one that saves last."""
    if measured is None:
        return [*callbacks, saver]
    # It is part of the validation: a stop during it is saved like one within a validation.
    measured.between = lambda: saver.on_test_batch_end(0)
    return [measured, *callbacks, saver]


def _train(
    stretches: Iterable[Segment],
    saved: SavedTraining,
    callbacks: Sequence[keras.callbacks.Callback],
    guards: Guards,
    measured: MeasuredMetrics | None,
) -> None:
    """Trains from the position of `saved` to the end.

    A signal between two calls of `fit`, for instance while a trunk is stored, stops at once: the
    state is already saved.
    """
    for stretch in stretches:
        fitted, (train, val) = stretch.model, stretch.batches
        together = steps_together(fitted, stretch.work, callbacks, guards.saving.every_steps)
        with (
            quick_pointwise_gradients(fitted),
            checkpointed(fitted, saved.unfreeze.plan),
            doing_together(fitted, together),
        ):
            saved.before_fit(fitted, train)
            if measured is not None:
                measured.before_fit(fitted, stretch.held_out)
            train = spread(train, fitted.distribute_strategy)
            val = None if val is None else spread(val, fitted.distribute_strategy)
            first = stretch.first_epoch
            if saved.logs is not None:
                with guards.signals.at_steps():
                    _validate(fitted, val, first, saved.logs, callbacks)
                saved.logs, first = None, first + 1
                if saved.over:
                    return
                if saved.unfreeze.paused:
                    continue
            if first < stretch.end_epoch:
                with guards.signals.at_steps():
                    fitted.fit(
                        train,
                        validation_data=val,
                        initial_epoch=first,
                        epochs=stretch.end_epoch,
                        callbacks=list(callbacks),
                        shuffle=False,  # the data set shuffles
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
    """Does the work of `fit` after an epoch's last step."""
    listening = keras.callbacks.CallbackList(list(callbacks), model=model)
    model.stop_training = False
    metrics = model.evaluate(val, callbacks=listening, return_dict=True, verbose=0)
    listening.on_epoch_end(epoch, {**logs, **{f"val_{name}": v for name, v in metrics.items()}})


def _parts(candidates: Sequence[Any]) -> dict[str, Stateful]:
    """Returns the objects with a state, by name; two of the same class are numbered."""
    parts: dict[str, Stateful] = {}
    for part in candidates:
        if hasattr(part, "state") and hasattr(part, "load_state"):
            kind = type(part).__name__
            number = sum(name.partition(" ")[0] == kind for name in parts)
            parts[f"{kind} {number}"] = part
    return parts
