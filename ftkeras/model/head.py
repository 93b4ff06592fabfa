"""The new layers on top of a backbone: pooling, hidden layers, dropout, float32 logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from ftkeras.config.schema import HiddenLayer, Pooling
from ftkeras.errors import UserError, did_you_mean
from ftkeras.model.pooling import pool


def attach_head(
    features: keras.KerasTensor,
    classes: int,
    *,
    initializer: str = "glorot_uniform",
    bias: np.ndarray | None = None,
    length: float | None = None,
    seed: int = 0,
    **shared: Any,
) -> keras.KerasTensor:
    """Returns logits on top of a backbone's features.

    Layer names are fixed: `head_pool`, `head_dense_1`, ..., `head_dropout`, `head_unit`,
    `head_length`, `logits`.

    Args:
        features: A map (batch, height, width, channels), a sequence (batch, steps, channels), or a
            vector (batch, channels).
        classes: How many logits.
        initializer: Keras initialiser name for the logits' kernel.
        bias: The logits' first bias, float (classes,); zeros if left out.
        length: The length that all features are scaled to; None leaves them as they are. If the
            columns of the kernel have one length, too, the logits are cosines times one number. A
            length near the features' own lets the kernel learn as fast as in a linear head.
        seed: Seed of initialisers and dropout.
        **shared: Options of `shared_layers`: pooling, mask, front, hidden, dropout.

    Returns:
        Float32 logits, (batch, classes), with any dtype policy: softmax in half precision loses
        the small probabilities.

    Raises:
        UserError: An activation or initialiser that Keras doesn't know, or a pooling that does not
            fit the features.
    """
    x = shared_layers(features, seed=seed, **shared)
    if length is not None:
        x = keras.layers.UnitNormalization(dtype="float32", name="head_unit")(x)
        x = keras.layers.Rescaling(length, dtype="float32", name="head_length")(x)
    return attach_logits(x, classes, initializer=initializer, bias=bias, seed=seed)


def shared_layers(
    features: keras.KerasTensor,
    *,
    pooling: Pooling | None = None,
    mask: keras.KerasTensor | None = None,
    front: int = 0,
    hidden: Sequence[HiddenLayer] = (),
    dropout: float = 0.2,
    seed: int = 0,
) -> keras.KerasTensor:
    """Returns the inputs of the logits of one head or several: (batch, channels).

    Args:
        features: See `attach_head`.
        pooling: How features become one vector; see `ftkeras.model.pooling.pool`. None takes the
            mean of a map or a sequence, and leaves a vector alone.
        mask: For a sequence, (batch, steps): true for steps, false for padding. None for its Keras
            mask.
        front: For a sequence, how many of its first steps are not part of the example.
        hidden: Dense layers before the logits.
        dropout: Dropout rate before the logits, from 0 to below 1.
        seed: Seed of initialisers and dropout.
    """
    x = pool(features, pooling, mask, front)  # (batch, channels)
    for number, layer in enumerate(hidden, start=1):
        x = _hidden(x, layer, number, seed)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=seed, name="head_dropout")(x)
    return x


def attach_logits(
    x: keras.KerasTensor,
    units: int,
    *,
    initializer: str = "glorot_uniform",
    bias: np.ndarray | None = None,
    seed: int = 0,
    name: str = "logits",
) -> keras.KerasTensor:
    """Returns the output of a last dense layer: float32 (batch, units).

    Args:
        x: (batch, channels).
        units: The number of logits, or of numbers.
        initializer: Keras initialiser name for the kernel.
        bias: The first bias, float (units,); zeros if left out.
        seed: Seed of the initialiser.
        name: The layer's name.
    """
    return keras.layers.Dense(
        units,
        kernel_initializer=_initializer(initializer, seed),
        bias_initializer="zeros" if bias is None else keras.initializers.Constant(bias.tolist()),
        dtype="float32",
        name=name,
    )(x)  # (batch, units)


def logits_name(head: str) -> str:
    """Returns the name of the last layer of one of several heads."""
    return f"logits_{head}"


def _hidden(x: keras.KerasTensor, layer: HiddenLayer, number: int, seed: int) -> keras.KerasTensor:
    kernel = _initializer(layer.initializer, seed + number)
    x = keras.layers.Dense(layer.units, kernel_initializer=kernel, name=f"head_dense_{number}")(x)
    if layer.normalization == "batch":
        x = keras.layers.BatchNormalization(name=f"head_norm_{number}")(x)
    elif layer.normalization == "layer":
        x = keras.layers.LayerNormalization(name=f"head_norm_{number}")(x)
    try:
        x = keras.layers.Activation(layer.activation, name=f"head_activation_{number}")(x)
    except ValueError:
        guess = did_you_mean(layer.activation, dir(keras.activations))
        raise UserError(f"head: no Keras activation {layer.activation!r}.{guess}") from None
    if layer.dropout:
        x = keras.layers.Dropout(layer.dropout, seed=seed, name=f"head_dropout_{number}")(x)
    return x


def _initializer(name: str, seed: int) -> keras.initializers.Initializer:
    try:
        initializer = keras.initializers.get(name)
    except ValueError:
        initializer = None
    if initializer is None:
        guess = did_you_mean(name, [n for n in dir(keras.initializers) if n[0].islower()])
        raise UserError(f"head: no Keras initializer {name!r}.{guess}")
    config = initializer.get_config()
    return type(initializer).from_config({**config, "seed": seed} if "seed" in config else config)
