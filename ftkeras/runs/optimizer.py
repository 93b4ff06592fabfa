"""Builds the one optimizer that serves all phases of a run."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from ftkeras.config.schema import OptimizerConfig
from ftkeras.phases.fused_adam import FusedAdam, FusedAdamW
from ftkeras.phases.selectors import Weight, Weights, is_kernel

OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "adam": FusedAdam,
    "adamw": FusedAdamW,
    "adafactor": keras.optimizers.Adafactor,
    "lamb": keras.optimizers.Lamb,
    "lion": keras.optimizers.Lion,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
_WITH_MOMENTUM = ("rmsprop", "sgd")


def make_optimizer(
    section: OptimizerConfig,
    weights: Weights,
    *,
    learning_rate: float = 1e-3,
    spared: Iterable[Weight] = (),
) -> keras.optimizers.Optimizer:
    """Returns a Keras optimizer whose weight decay leaves out biases and normalisation.

    Decay of biases and normalisation costs accuracy (He et al. 2019, "Bag of tricks for image
    classification", section 3.1). The decay is decoupled and multiplied by the learning rate
    (Loshchilov and Hutter 2019).

    Args:
        section: The optimizer's settings.
        weights: The model's weights.
        learning_rate: The rate before any phase sets its own.
        spared: More weights that don't decay.
    """
    name, weight_decay = section.name, section.weight_decay
    optimizer = OPTIMIZERS[name](
        learning_rate=learning_rate,
        # AdamW refuses None; other optimizers would waste time on a decay of 0.
        weight_decay=weight_decay if name == "adamw" else weight_decay or None,
        global_clipnorm=section.clip_norm,
        gradient_accumulation_steps=section.accumulate if section.accumulate > 1 else None,
        **({"momentum": section.momentum} if name in _WITH_MOMENTUM else {}),
    )
    if weight_decay:
        excluded = [weight.variable for weight in spared]
        excluded += [w.variable for w in weights.all if not is_kernel(w)]
        optimizer.exclude_from_weight_decay(var_list=excluded)
    return optimizer
