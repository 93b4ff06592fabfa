"""Settings of layers and losses that a phase may change, once the train function is rebuilt."""

from __future__ import annotations

from collections.abc import Callable

import keras

from ftkeras.errors import UserError
from ftkeras.keras_internals import loss_arguments


def set_dropout(model: keras.Model, rate: float, dry_run: bool = False) -> None:
    """Sets the rate of the dropout layers of `model` itself; those inside nested models stay.

    Raises:
        UserError: The model has no dropout layer.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    if not layers:
        raise UserError(
            "dropout: the head has no dropout layer; give it one, with any rate above 0."
        )
    if not dry_run:
        for layer in layers:
            layer.rate = rate


def set_label_smoothing(model: keras.Model, amount: float, dry_run: bool = False) -> None:
    """Sets the label smoothing of the loss, or of all losses, that `model` was compiled with.

    Raises:
        UserError: No loss is an object that has label smoothing.
    """
    losses = _smoothing_losses(model)
    if not losses:
        raise UserError(
            "label_smoothing: compile the model with a loss object that has it, for example "
            "keras.losses.CategoricalCrossentropy(from_logits=True)."
        )
    if not dry_run:
        for loss in losses:
            loss_arguments(loss)["label_smoothing"] = loss.label_smoothing = amount


def remember_settings(model: keras.Model) -> Callable[[], None]:
    """Returns a function that sets dropout and label smoothing to what they are now."""
    rates = [(x, x.rate) for x in model.layers if isinstance(x, keras.layers.Dropout)]
    smoothing = [loss_arguments(x)["label_smoothing"] for x in _smoothing_losses(model)]

    def put_back() -> None:
        for layer, rate in rates:
            layer.rate = rate
        if smoothing:
            set_label_smoothing(model, smoothing[0])

    return put_back


def _smoothing_losses(model: keras.Model) -> list[keras.losses.Loss]:
    losses = model.loss.values() if isinstance(model.loss, dict) else [model.loss]
    return [x for x in losses if "label_smoothing" in loss_arguments(x)]
