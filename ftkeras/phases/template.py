"""The optimizer that each group of weights has a copy of: what can be copied, and what cannot."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.keras_internals import uses_weight_decay

_OF_ALL_GROUPS = (  # settings that a copy, which sees one group alone, must not have
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "ema_overwrite_frequency",
)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_template(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises UserError if phases cannot use an optimizer."""
    kind = type(optimizer).__name__
    if hasattr(optimizer, "optimizers"):
        raise UserError(
            f"{kind}: phases need one optimizer for all weights. Compile the model with one; "
            "Phase(rates={...}) gives parts of the model their own rates."
        )
    config = optimizer.get_config()
    if not isinstance(config.get("learning_rate", 0.0), (int, float)):
        raise UserError(
            f"{kind}: its learning_rate is a schedule, and the phases set the rate. Compile with "
            "a number; Phase(decay=...) chooses how the rate falls."
        )
    takes = inspect.signature(type(optimizer)).parameters.values()
    lost = [p.name for p in takes if p.kind in _BY_NAME and p.name not in config]
    try:
        copy = type(optimizer).from_config(config) if not lost else None
    except Exception as error:
        lost = [str(error)]
    if lost or not isinstance(copy, keras.optimizers.Optimizer):
        raise UserError(
            f"{kind}: phases copy the optimizer by its get_config and from_config, which do not "
            f"give all that it was made with: {', '.join(lost)}. Complete its get_config."
        )


def copy_of(
    template: keras.optimizers.Optimizer,
    weights: Sequence[keras.Variable],
    rate: Callable[[], Any],
) -> keras.optimizers.Optimizer:
    """Returns an optimizer like the template for some weights, built, with its own step count.

    Args:
        template: The optimizer to copy.
        weights: The weights that the copy trains.
        rate: Returns the learning rate.
    """
    config = template.get_config()
    config.update({name: None for name in _OF_ALL_GROUPS if name in config})
    config.update(use_ema=False, learning_rate=rate)
    inner = type(template).from_config(config)
    spared = [weight for weight in weights if not uses_weight_decay(template, weight)]
    if spared:
        inner.exclude_from_weight_decay(var_list=spared)
    inner.build(list(weights))
    return inner


def clip(
    template: keras.optimizers.Optimizer, gradients: Sequence[Any], weights: Sequence[Any]
) -> Sequence[Any]:
    """Clips the gradients of all groups as Keras does, by the same operations in the same order."""
    clipped = [k for k, weight in enumerate(weights) if not _is_overwritten(weight)]
    values = [gradients[k] for k in clipped]
    if (norm := template.clipnorm) and norm > 0:
        values = [tf.clip_by_norm(value, norm) for value in values]
    elif (norm := template.global_clipnorm) and norm > 0:
        ops = keras.ops
        total = ops.sqrt(ops.sum(ops.stack([ops.sum(ops.square(v)) for v in values])))
        scale = norm * ops.minimum(1.0 / total, 1.0 / norm) + (total - total)
        values = [value * scale for value in values]
    elif (most := template.clipvalue) and most > 0:
        values = [keras.ops.clip(value, -most, most) for value in values]
    results = list(gradients)
    for k, value in zip(clipped, values, strict=True):
        results[k] = value
    return results


def _is_overwritten(variable: Any) -> bool:
    return bool(getattr(variable, "overwrite_with_gradient", False))  # float8's scales
