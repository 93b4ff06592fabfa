"""Layers that keep a growing classifier near an older one; no saved model has them."""

from __future__ import annotations

import functools
from typing import Any

import keras


class Teacher(keras.layers.Layer):
    """Returns the outputs of a finished model, as a layer without weights.

    Keras does not track the model: no optimizer, checkpoint or selector reaches it. Its answer to
    an image never changes, so the layer can be part of a stored trunk.

    Args:
        model: From inputs to logits.
        key: Identifies the model's weights; a part of the store's key.
    """

    def __init__(self, model: keras.Model, key: str, **options: Any):
        super().__init__(trainable=False, dtype="float32", **options)
        model.trainable = False
        self._key = key
        self._classes = model.output_shape[-1]
        self._answer = functools.partial(model, training=False)  # hides the model from Keras

    def call(self, inputs: Any) -> Any:
        """Returns logits, (batch, classes)."""
        return keras.ops.stop_gradient(self._answer(inputs))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(batch, height, width, 3) to (batch, classes)."""
        return (input_shape[0], self._classes)

    def get_config(self) -> dict[str, Any]:
        """Returns the key, which identifies the teacher."""
        return {**super().get_config(), "key": self._key}


class Distillation(keras.layers.Layer):
    """Returns its logits; in training, adds their distance from a teacher's to the loss.

    Learning without forgetting (Li and Hoiem 2016): the mean over the batch of
    `weight * T^2 * KL(teacher || student)`. It is over the teacher's classes, both softened by the
    temperature T. T^2 keeps the size of the gradients (Hinton et al. 2015).

    Args:
        weight: The weight of the term.
        temperature: T, above 0.

    Example:
        ```python
        held = Distillation(1.0, 2.0)([logits, Teacher(old_model, key="old")(inputs)])
        ```
    """

    def __init__(self, weight: float, temperature: float, **options: Any):
        super().__init__(dtype="float32", **options)
        self._weight = weight
        self._temperature = temperature

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Takes the logits, (batch, classes), and the teacher's, (batch, old classes)."""
        logits, wanted = inputs
        if training:
            ops, t = keras.ops, self._temperature
            target = ops.log_softmax(wanted / t)
            student = ops.log_softmax(logits[:, : wanted.shape[-1]] / t)
            divergence = ops.sum(ops.exp(target) * (target - student), axis=-1)  # (batch,)
            self.add_loss(self._weight * t**2 * ops.mean(divergence))
        return logits

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the logits."""
        return input_shape[0]
