"""Puts the optimizer for phases in place of that of a compiled model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.phases.groups import Group
from ftkeras.phases.optimizer import PhasedOptimizer


@keras.saving.register_keras_serializable(package="ftkeras")
class PhasedLossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's loss scaling around a `PhasedOptimizer`, for float16.

    It looks for overflow in the gradients of all replicas; Keras's own looks at the first alone.
    """

    def check_finite(self, grads: Sequence[Any]) -> Any:
        """Whether all gradients of all replicas are finite."""
        finite = super().check_finite(grads)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return finite
        bad = tf.cast(tf.logical_not(finite), tf.float32)
        return tf.equal(context.all_reduce(tf.distribute.ReduceOp.SUM, bad), 0.0)

    def save_own_variables(self, store: Any) -> None:
        """Saves its own two numbers; the optimizer inside saves its own state."""
        if self.built:
            for name in ("step_counter", "dynamic_scale"):
                store[name] = keras.ops.convert_to_numpy(getattr(self, name))

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        if "dynamic_scale" in set(store.keys()):
            for name in ("step_counter", "dynamic_scale"):
                getattr(self, name).assign(np.asarray(store[name]))


def phased(optimizer: keras.optimizers.Optimizer) -> PhasedOptimizer | None:
    """Returns the `PhasedOptimizer` that an optimizer is or holds, or None."""
    inner = _unscaled(optimizer)
    return inner if isinstance(inner, PhasedOptimizer) else None


def template_of(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer that phases copy: inside loss scaling, or inside other phases."""
    inner = _unscaled(optimizer)
    return inner.template() if isinstance(inner, PhasedOptimizer) else inner


def _unscaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer.inner_optimizer if scaling else optimizer


def install(model: keras.Model, groups: Sequence[Group], **options: Any) -> None:
    """Puts a `PhasedOptimizer` in place of a compiled model's optimizer; in its strategy's scope.

    Args:
        model: The model.
        groups: The groups of weights.
        options: More arguments of `PhasedOptimizer.arrange`.
    """
    old = model.optimizer
    optimizer = PhasedOptimizer(template_of(old))
    optimizer.arrange(groups, **options)
    model.optimizer = optimizer
    if isinstance(old, keras.optimizers.LossScaleOptimizer):
        model.optimizer = PhasedLossScale(
            optimizer,
            initial_scale=old.initial_scale,
            dynamic_growth_steps=old.dynamic_growth_steps,
        )
        model.optimizer.build([weight for group in groups for weight in group.weights])
