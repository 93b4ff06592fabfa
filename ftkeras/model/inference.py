"""A model in inference mode, as one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from ftkeras.keras_internals import attach, attached
from ftkeras.outputs.ending import ending_of

Answer = Callable[[tf.Tensor], Any]  # to a tensor, or with several heads to a dict of them

_KEPT = "_ftkeras_outputs"


def logits_function(model: keras.Model, *, exclusive: bool = True) -> Answer:
    """Returns a function from inputs to a classifier's logits, for any last activation.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns logits or scores (n, units).
        exclusive: Whether exactly one class is right; otherwise each is decided on its own.

    Returns:
        From float32 inputs (n, size, size, 3) to float32 logits (n, classes).

    Raises:
        UserError: The model's outputs are neither logits nor scores.
    """
    ending, answer = ending_of(model, exclusive=exclusive), outputs_function(model)
    return lambda inputs: ending.logits(answer(inputs))


def outputs_function(model: keras.Model) -> Answer:
    """Returns the model in inference mode as one graph that serves batches of any length.

    A smaller last batch would make `model.predict` or a plain `tf.function` trace again, which
    takes a second. This graph is traced once per model and kept with it.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), or several tensors in a list or a
            dict by name; returns (n, units), or a dict of them.
    """
    if attached(model, _KEPT) is None:

        @tf.function(input_signature=[batch_spec(model)])
        def answered(inputs: Any) -> Any:
            outputs = model(inputs, training=False)
            return tf.nest.map_structure(lambda output: tf.cast(output, tf.float32), outputs)

        # The graph itself: TensorFlow takes all functions that are made here for one. It would
        # warn that this is traced again and again if many models answer few batches each.
        attach(model, _KEPT, answered.get_concrete_function())
    answer: Answer = attached(model, _KEPT)
    return answer


def batch_spec(model: keras.Model) -> Any:
    """Returns the signature of the model's inputs, for a batch of any size."""
    if not isinstance(model.input_shape, list) and len(model.input_shape) == 4:
        return tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)  # raw images
    inputs = model.input
    if isinstance(inputs, list) and len(inputs) == 1:
        [inputs] = inputs  # batches have no list around a single input
    return tf.nest.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), inputs)


def with_kept_outputs(model: keras.Model, other: keras.Model) -> keras.Model:
    """Returns the model, or another with the same layers that has a graph already."""
    if (answer := attached(other, _KEPT)) is not None:
        attach(model, _KEPT, answer)
    return model
