"""Adam's update as one operation instead of about ten: the same arithmetic in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.keras_internals import DecaysItself, uses_weight_decay, variable_index


@dataclasses.dataclass
class _Slots:
    """Adam's slots; in an object, so that Keras's saving does not look inside."""

    momenta: Sequence[keras.Variable]
    velocities: Sequence[keras.Variable]


class _Fused(DecaysItself):
    """Replaces the update of Adam (Kingma and Ba 2015) by TensorFlow's own operation.

    Keras writes it as separate operations, each of which reads and writes whole tensors. This one
    reads each number once, on every device and under XLA. It rounds otherwise in the last digit.
    The slots, their names and the step count remain Keras's own. Gradients of embeddings, and
    `amsgrad`, are updated as Keras does it.
    """

    def add_optimizer_variables(
        self: Any, variables: Any, name: Any, initializer: Any = "zeros"
    ) -> Any:
        """Adds slots, and keeps Adam's own."""
        slots = super().add_optimizer_variables(variables, name, initializer)
        if isinstance(name, list):  # not the averages of weights
            self._slots = _Slots(*slots[:2])
        return slots

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Decays one weight, and updates it."""
        dtype = variable.dtype
        if self.weight_decay and uses_weight_decay(self, variable):
            # Decoupled (Loshchilov and Hutter 2019); Keras multiplies whole tensors twice.
            variable.assign_sub(variable * tf.cast(learning_rate * self.weight_decay, dtype))
        if isinstance(gradient, tf.IndexedSlices) or self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        index = variable_index(self, variable)
        m, v = self._slots.momenta[index], self._slots.velocities[index]
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = (tf.cast(b, dtype) for b in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(m),
            v=_handle(v),
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )


@keras.saving.register_keras_serializable(package="ftkeras")
class FusedAdam(_Fused, keras.optimizers.Adam):
    """`keras.optimizers.Adam`, faster on a CPU."""


@keras.saving.register_keras_serializable(package="ftkeras")
class FusedAdamW(_Fused, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, faster on a CPU."""


def _handle(variable: Any) -> tf.Tensor:
    # Under a strategy the optimizer is given each device's own TensorFlow variable.
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
