"""Runs a plan: one `model.fit` through all phases, or one a phase where the trunk is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from ftkeras.data.feed import Feed
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.phases.phase import larger_is_better
from ftkeras.training.averaging import AveragedWeights
from ftkeras.training.callbacks import DataPosition, FitProgress, GroupHealth, Interruptible, Record
from ftkeras.training.checkpoint import Checkpoints, save_weights
from ftkeras.training.forecast import TrunkPlan
from ftkeras.training.pointwise import quick_pointwise_gradients
from ftkeras.training.run import Run
from ftkeras.training.stretches import stretches


def fit(
    model: keras.Model,
    feed: Feed,
    *,
    unfreeze: StagedUnfreezing,
    run: Run,
    monitor: str,
    average: AveragedWeights | None = None,
    trunk: TrunkPlan | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Checkpoints:
    """Trains a compiled model through all phases and keeps the record in the run's folder.

    Args:
        model: A compiled model.
        feed: Where batches of (images, labels[, weights]) come from.
        unfreeze: The phases.
        run: Where metrics, checkpoints and TensorBoard logs go.
        monitor: The logged metric that tells the best epoch.
        average: Keeps a moving average of the weights; validation and the best checkpoint use it.
        trunk: Says in which phases what is frozen runs once, and training goes on from what it
            gave; None runs it anew every epoch.
        callbacks: More callbacks; they see the logs with the phase's learning rate in them.

    Returns:
        The checkpoint callback, which knows the best epoch.

    Raises:
        TrainingError: A frozen weight moved, or `monitor` isn't logged.
        KeyboardInterrupt: (after saving the weights) Someone pressed Ctrl-C.
    """
    checkpoints = Checkpoints(run, monitor, average)
    progress = FitProgress(unfreeze, feed.steps_per_epoch)
    ours: list[keras.callbacks.Callback] = [
        unfreeze,  # before those that read its phase and its learning rate
        *([] if average is None else [average]),
        DataPosition(feed, unfreeze),
        Record(run, unfreeze),
        progress,
        checkpoints,
        keras.callbacks.TensorBoard(run.path("logs"), write_graph=False),
        GroupHealth(run, unfreeze, report=print),
    ]
    interruptible = Interruptible()
    try:
        for stretch in stretches(model, feed, unfreeze, trunk):
            with stretch.fed as (train, val), quick_pointwise_gradients(model):
                model.fit(
                    train,
                    validation_data=val,
                    initial_epoch=stretch.first_epoch,
                    epochs=stretch.end_epoch,
                    callbacks=[*ours, *callbacks, interruptible],
                    shuffle=False,  # the data set does that itself
                    verbose=0,
                )
            if model.stop_training:
                break
    except BaseException:
        if average is not None:
            average.unswap()  # where validation was interrupted, the averages are in the model
        save_weights(model, run, "last")
        raise
    finally:
        progress.close()
        interruptible.restore()
    return checkpoints


def early_stopping(metric: str, patience: int, min_delta: float) -> keras.callbacks.Callback:
    """Returns a callback that ends training once `metric` no longer improves."""
    mode: Any = "max" if larger_is_better(metric) else "min"
    return keras.callbacks.EarlyStopping(metric, min_delta=min_delta, patience=patience, mode=mode)
