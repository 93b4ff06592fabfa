"""Adam's update as one operation instead of about ten: the same arithmetic in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from ftkeras.keras_internals import adam_slots

Update = Callable[[Any, Any, Any], None]


def fused_update(optimizer: keras.optimizers.Optimizer) -> Update:
    """Returns what does `optimizer.update_step` fastest.

    Keras writes Adam (Kingma and Ba 2015) as separate operations, each of which reads and writes
    whole tensors; TensorFlow has one that reads each number once, on every device and under XLA.
    The slots, their names and the step count remain Keras's own.

    Args:
        optimizer: A built Keras optimizer, not wrapped.

    Returns:
        A function of (gradient, variable, learning rate). That of Adam and AdamW is fused; for any
        other optimizer, and for gradients of embeddings, it is the optimizer's own.
    """
    plain: Update = optimizer.update_step
    kinds = (keras.optimizers.Adam, keras.optimizers.AdamW)
    if type(optimizer) not in kinds or optimizer.amsgrad:
        return plain

    def update(gradient: Any, variable: Any, learning_rate: Any) -> None:
        if isinstance(gradient, tf.IndexedSlices):
            plain(gradient, variable, learning_rate)
            return
        m, v = adam_slots(optimizer, variable)
        dtype = variable.dtype
        step = tf.cast(optimizer.iterations + 1, dtype)
        beta_1, beta_2 = (tf.cast(b, dtype) for b in (optimizer.beta_1, optimizer.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(m),
            v=_handle(v),
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(optimizer.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )

    return update


def _handle(variable: Any) -> tf.Tensor:
    # Under a strategy the optimizer is given each device's own TensorFlow variable.
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
