"""Runs a plan: one `model.fit` through all phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.training.callbacks import EpochCounter, FitProgress, Record
from ftkeras.training.checkpoint import Checkpoints, save_weights
from ftkeras.training.run import Run


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    val: tf.data.Dataset | None,
    *,
    unfreeze: StagedUnfreezing,
    run: Run,
    monitor: str,
    epoch: tf.Variable,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Checkpoints:
    """Trains a compiled model through all phases and keeps the record in the run's folder.

    Args:
        model: A compiled model.
        train: Batches of (images, labels[, weights]) for one epoch; reads `epoch` when iterated.
        val: Validation batches, or None.
        unfreeze: The phases.
        run: Where metrics, checkpoints and TensorBoard logs go.
        monitor: The logged metric that tells the best epoch.
        epoch: int64 scalar that `train` reads its order and augmentation from.
        callbacks: More callbacks; they see the logs with the phase's learning rate in them.

    Returns:
        The checkpoint callback, which knows the best epoch.

    Raises:
        TrainingError: A frozen weight moved, or `monitor` isn't logged.
        KeyboardInterrupt: (after saving the weights) Someone pressed Ctrl-C.
    """
    checkpoints = Checkpoints(run, monitor)
    ours: list[keras.callbacks.Callback] = [
        EpochCounter(epoch),
        unfreeze,  # before those that read its phase and its learning rate
        Record(run, unfreeze),
        FitProgress(unfreeze),
        checkpoints,
        keras.callbacks.TensorBoard(run.path("logs"), write_graph=False),
    ]
    try:
        model.fit(
            train,
            validation_data=val,
            epochs=unfreeze.epochs,
            callbacks=[*ours, *callbacks],
            shuffle=False,  # the data set does that itself
            verbose=0,
        )
    except BaseException:
        save_weights(model, run, "last")
        raise
    return checkpoints


def early_stopping(metric: str, patience: int, min_delta: float) -> keras.callbacks.Callback:
    """Returns a callback that ends training once `metric` no longer improves."""
    from ftkeras.training.checkpoint import larger_is_better

    mode: Any = "max" if larger_is_better(metric) else "min"
    return keras.callbacks.EarlyStopping(metric, min_delta=min_delta, patience=patience, mode=mode)
