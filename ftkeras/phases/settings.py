"""Settings of layers and losses that a phase may change, once the train function is rebuilt."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from ftkeras.backbones import Block
from ftkeras.errors import UserError
from ftkeras.outputs.smoothing import check_losses, smoothed_losses
from ftkeras.phases.heads import blocks_or_layers, head_dropouts
from ftkeras.phases.phase import Phase


class Settings:
    """The dropout of a model's head and the label smoothing of its losses, phase by phase.

    Without a phase's `dropout` each rate is what it was when this was made; without its
    `label_smoothing` each loss has its own amount.

    Args:
        model: A compiled model.
        blocks: Its blocks, as `weights_of` takes them.

    Example:
        >>> from ftkeras.phases.phase import Phase, resolve_phases
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.1),
        ...                           keras.layers.Dense(2)])
        >>> settings = Settings(model, blocks=[])
        >>> phase, = resolve_phases([Phase("head", 1, 1e-3, dropout=0.5)])
        >>> settings.apply(phase)
        >>> model.layers[0].rate
        0.5
    """

    def __init__(self, model: keras.Model, blocks: Sequence[Block] | None = None):
        dropouts = head_dropouts(model, blocks_or_layers(model, blocks))
        self._rates = [(layer, layer.rate) for layer in dropouts]
        self._model = model

    def check(self, phase: Phase) -> None:
        """Refuses what `apply` could not do.

        Raises:
            UserError: The head has no dropout layer, or one that cannot drop; or a loss isn't a
                `Smoothed`.
        """
        if phase.dropout is not None and not self._rates:
            raise UserError(
                "dropout: the head has no dropout layer; give it one, with any rate above 0."
            )
        for layer, _ in self._rates:
            # Keras gives a layer of rate 0 nothing to draw random numbers from.
            if phase.dropout and getattr(layer, "seed_generator", None) is None:
                raise UserError(
                    f"dropout: the head's layer {layer.name!r} was made with rate 0, which Keras "
                    "cannot change; make it with any rate above 0."
                )
        if phase.label_smoothing is not None:
            check_losses(self._model)

    def apply(self, phase: Phase) -> None:
        """Sets what a phase says, before the train function is traced."""
        for layer, rate in self._rates:
            layer.rate = rate if phase.dropout is None else phase.dropout
        for loss in smoothed_losses(self._model):
            loss.phase_amount = phase.label_smoothing
