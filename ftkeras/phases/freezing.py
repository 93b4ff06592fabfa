"""Sets `trainable` flags so that exactly the chosen weights train."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from ftkeras.errors import UserError
from ftkeras.keras_internals import layers_inside, variables_inside
from ftkeras.phases.own_flags import frozen_by_owner, set_flag
from ftkeras.phases.phase import BatchNorm
from ftkeras.phases.selectors import Weight, Weights, names_explicitly, select


def trained_weights(
    weights: Weights, selectors: Sequence[str], batch_norm: BatchNorm
) -> tuple[Weight, ...]:
    """Returns the weights that selectors and batch-norm policy together train.

    Unless `batch_norm` is "train", scale and offset of a batch normalisation train only if a
    selector names them (`norm`, `bias`, `re:`). It is not enough that their whole block was
    selected.
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
    batch normalisation can train while its statistics stay. What its owner froze by its own flag
    stays frozen. The caller rebuilds the train function.

    Raises:
        UserError: One of `trained` was frozen by its owner since `weights_of` was called.
    """
    check_own_flags(trained)
    chosen = {id(weight.variable) for weight in trained}
    bases = {id(weight.variable) for weight in trained if weight.is_base}
    kept = {
        id(own.variable)
        for own in variables_inside(model)
        if own.trains and id(own.variable) not in bases and frozen_by_owner(own.variable, own.layer)
    }
    model.trainable = True
    # Parents first: setting a parent's flag overwrites the flags of everything inside it. Every
    # layer is set by itself nevertheless. On TensorFlow, assigning the value that a flag already
    # has is skipped whole, so `model.trainable = True` may not reach the layers inside.
    for layer in layers_inside(model):
        statistics_fixed = batch_norm != "train" and isinstance(
            layer, keras.layers.BatchNormalization
        )
        holds = any(id(variable) in chosen for variable in layer.variables)
        layer.trainable = holds and not statistics_fixed
    for _, variable, _, trains in variables_inside(model):
        if trains:
            set_flag(variable, id(variable) in chosen, id(variable) in kept)


def check_own_flags(trained: Sequence[Weight]) -> None:
    """Refuses weights that their owner froze after they were selected.

    Raises:
        UserError: It names the first such weight.
    """
    late = [w.path for w in trained if not w.is_base and frozen_by_owner(w.variable, w.layer)]
    if late:
        raise UserError(
            f"weight {late[0]!r} was frozen by its own flag or by enable_lora after the phases "
            "were bound to the model. Do that first, then make StagedUnfreezing."
        )


def check_all_known(model: keras.Model, weights: Weights) -> None:
    """Refuses a model that got weights after the phases were bound to it: they would stay frozen.

    Raises:
        UserError: It names the first such weight.
    """
    known = {id(weight.variable) for weight in weights.all}
    new = [
        own.path
        for own in variables_inside(model)
        if own.trains
        and id(own.variable) not in known
        and not frozen_by_owner(own.variable, own.layer)
    ]
    if new:
        raise UserError(
            f"weight {new[0]!r} is not in the plan: it was made after the phases were bound to the "
            "model, or they were bound to another model. Build the model completely, then make "
            "StagedUnfreezing."
        )
