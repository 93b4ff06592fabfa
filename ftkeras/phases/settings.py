"""Settings of layers and losses that a phase may change, once the train function is rebuilt."""

from __future__ import annotations

from collections.abc import Callable

import keras

from ftkeras.errors import UserError


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
    """Sets the label smoothing of the loss that `model` was compiled with.

    Raises:
        UserError: The loss isn't an object that has label smoothing.
    """
    loss = model.loss
    # Keras's losses hand these arguments to a function; their attribute is for their config alone.
    arguments = getattr(loss, "_fn_kwargs", {})
    if "label_smoothing" not in arguments:
        raise UserError(
            "label_smoothing: compile the model with a loss object that has it, for example "
            "keras.losses.CategoricalCrossentropy(from_logits=True)."
        )
    if not dry_run:
        arguments["label_smoothing"] = amount
        loss.label_smoothing = amount


def remember_settings(model: keras.Model) -> Callable[[], None]:
    """Returns a function that sets dropout and label smoothing to what they are now."""
    rates = [(x, x.rate) for x in model.layers if isinstance(x, keras.layers.Dropout)]
    smoothing = getattr(model.loss, "_fn_kwargs", {}).get("label_smoothing")

    def put_back() -> None:
        for layer, rate in rates:
            layer.rate = rate
        if smoothing is not None:
            set_label_smoothing(model, smoothing)

    return put_back
