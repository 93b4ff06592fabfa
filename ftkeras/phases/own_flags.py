"""Weights that their owner froze one by one, told apart from those that a phase froze.

A weight's flag says whether it trains, not who set it. Keras's `enable_lora` and people set the
flag of a single weight; so does a phase that trains part of a layer. Therefore a phase marks each
weight that it leaves frozen, and later phases and callbacks read the mark.
"""

from __future__ import annotations

import keras

from ftkeras.model.lora import is_base

_MARK = "ftkeras_frozen_by"


def frozen_by_owner(variable: keras.Variable, layer: keras.layers.Layer) -> bool:
    """Whether a weight is to stay frozen, whatever a phase selects.

    It is if its own flag is False although its layer trains, or if it is the base of a LoRA layer.

    Args:
        variable: A weight that was made as one that trains.
        layer: The layer that made it.
    """
    if is_base(variable, layer):
        return True
    if variable.trainable:
        return False
    # Setting a layer's flag sets those of its weights: only a flag that differs is its own.
    mark = getattr(variable, _MARK, None)
    return bool(layer.trainable if mark is None else mark == "owner")


def set_flag(variable: keras.Variable, trains: bool, kept: bool) -> None:
    """Sets a weight's flag for a phase.

    Args:
        variable: The weight.
        trains: Whether the phase trains it.
        kept: Whether its owner had frozen it.
    """
    variable.trainable = trains and not kept
    setattr(variable, _MARK, "owner" if kept else None if trains else "phase")
