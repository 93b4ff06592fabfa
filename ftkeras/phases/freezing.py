"""Sets `trainable` flags so that exactly the chosen weights train."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from ftkeras.keras_internals import layers_inside, variables_inside
from ftkeras.phases.phase import BatchNorm
from ftkeras.phases.selectors import Weight, Weights, names_explicitly, select


def trained_weights(
    weights: Weights, selectors: Sequence[str], batch_norm: BatchNorm
) -> tuple[Weight, ...]:
    """Returns the weights that selectors and batch-norm policy together train.

    Unless `batch_norm` is "train", scale and offset of a batch normalisation train only where a
    selector names them (`norm`, `bias`, `re:`), not because their whole block was selected.
    """
    chosen = select(weights, selectors)
    if batch_norm == "train":
        return chosen
    named = [selector for selector in selectors if names_explicitly(selector)]
    explicit = {id(weight.variable) for weight in select(weights, named)}
    return tuple(
        weight
        for weight in chosen
        if not isinstance(weight.layer, keras.layers.BatchNormalization)
        or id(weight.variable) in explicit
    )


def set_trainable(model: keras.Model, trained: Sequence[Weight], batch_norm: BatchNorm) -> None:
    """Makes exactly the `trained` weights of `model` trainable.

    Batch normalisation runs in inference mode, its statistics fixed, wherever its layer's
    `trainable` is False: `training=False` at the call does not survive an outer `training=True`.
    A weight's own flag decides whether it is in `model.trainable_variables`, so the offset of a
    batch normalisation can train while its statistics stay. The caller rebuilds the train function.
    """
    chosen = {id(weight.variable) for weight in trained}
    model.trainable = True
    # Parents first: setting a parent's flag overwrites the flags of everything inside it. Every
    # layer is set by itself nevertheless: on TensorFlow, assigning the value that a flag already
    # has is skipped whole, so `model.trainable = True` need not reach what is inside.
    for layer in layers_inside(model):
        statistics_fixed = batch_norm != "train" and isinstance(
            layer, keras.layers.BatchNormalization
        )
        holds = any(id(variable) in chosen for variable in layer.variables)
        layer.trainable = holds and not statistics_fixed
    for _, variable, _, trains in variables_inside(model):
        if trains:
            variable.trainable = id(variable) in chosen
