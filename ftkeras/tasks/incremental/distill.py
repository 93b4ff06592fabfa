"""Layers that hold a growing classifier to what an older one says; no saved model has them."""

from __future__ import annotations

import functools
from typing import Any

import keras


class Teacher(keras.layers.Layer):
    """Says what a finished model says, as a layer without weights.

    The model is nobody's part: no optimizer, checkpoint or selector sees it. Its answer to an image
    never changes, so it goes where frozen layers go: into a stored trunk.

    Args:
        model: From inputs to logits.
        key: Differs where the model's weights do; what is stored goes by it.
    """

    def __init__(self, model: keras.Model, key: str, **options: Any):
        super().__init__(trainable=False, dtype="float32", **options)
        model.trainable = False
        self._key = key
        self._classes = model.output_shape[-1]
        self._answer = functools.partial(model, training=False)  # Keras looks for models, not here

    def call(self, inputs: Any) -> Any:
        """Returns logits, (batch, classes)."""
        return keras.ops.stop_gradient(self._answer(inputs))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(batch, height, width, 3) to (batch, classes)."""
        return (input_shape[0], self._classes)

    def get_config(self) -> dict[str, Any]:
        """Returns what tells one teacher from another."""
        return {**super().get_config(), "key": self._key}


class Distillation(keras.layers.Layer):
    """Hands logits on, and in training adds what they differ from a teacher's to the loss.

    Learning without forgetting (Li and Hoiem 2016): `weight * T^2 * KL(teacher || student)`, over
    the classes that the teacher knows, both softened by the temperature T, mean over the batch. T^2
    keeps the size of the gradients (Hinton et al. 2015).

    Args:
        weight: How much it counts beside the loss.
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
        """The logits' own."""
        return input_shape[0]
