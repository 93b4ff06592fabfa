"""Elastic weight consolidation holds the weights that matter for old answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import track
from ftkeras.training.regularization import TrainingPenalty

_LEAST = 0.01  # a class less likely than this is left out of the expectation


def diagonal_fisher(
    model: keras.Model,
    inputs: np.ndarray,
    variables: Sequence[keras.Variable],
    classes: int,
) -> list[np.ndarray]:
    """Returns the diagonal of the Fisher information: how much each weight matters for the answers.

    For each input the squared gradients of log p(class) are averaged over the classes, weighted by
    the model's probabilities. So no labels are needed. Then they are averaged over the inputs.

    Args:
        model: From inputs to logits.
        inputs: (n, size, size, 3), 0..255.
        variables: The weights.
        classes: How many of the first logits count.

    Returns:
        An array in each variable's shape, float32.
    """
    values = [variable.value for variable in variables]

    def log_scores(example: tf.Tensor) -> tf.Tensor:
        return tf.nn.log_softmax(tf.cast(model(example, training=False), tf.float32)[0, :classes])

    spec = tf.TensorSpec((1, *inputs.shape[1:]), tf.float32)

    @tf.function(input_signature=[spec])
    def scores(example: tf.Tensor) -> tf.Tensor:
        return tf.exp(log_scores(example))

    @tf.function(input_signature=[spec, tf.TensorSpec((), tf.int32)])
    def squares(example: tf.Tensor, label: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            value = log_scores(example)[label]
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(value, values, unconnected_gradients=zero)
        return [tf.square(tf.cast(gradient, tf.float32)) for gradient in gradients]

    sums = [np.zeros(variable.shape, np.float32) for variable in variables]
    every = inputs.astype(np.float32)
    for example in track(every, "measure what old answers hang on", "example"):
        p = scores(example[None]).numpy()
        likely = np.flatnonzero(p >= min(_LEAST, p.max()))
        for label in likely:
            share = p[label] / p[likely].sum()
            for total, square in zip(sums, squares(example[None], label), strict=True):
                total += share * square.numpy()
    return [total / max(len(inputs), 1) for total in sums]


class ElasticWeights(TrainingPenalty):
    """Adds `strength / 2 * sum(fisher * (w - w_start)^2)` to the training loss.

    Elastic weight consolidation (Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in
    neural networks"). It is put on the variables as `WeightPenalty` is, and adds to what is there.

    Args:
        variables: The weights; they are held at their current values. Make this before a
            checkpoint is loaded, in the strategy's scope.
        fisher: What `diagonal_fisher` returned for them.
        strength: At least 0.
    """

    def __init__(
        self,
        variables: Iterable[keras.Variable],
        fisher: Iterable[np.ndarray],
        strength: float,
    ):
        super().__init__()
        for variable, importance in zip(variables, fisher, strict=True):
            start = tf.Variable(keras.ops.convert_to_tensor(variable), trainable=False)
            held = tf.Variable(strength / 2 * importance, trainable=False)
            variable.regularizer = self._pull(start, held, variable.regularizer)

    def _pull(
        self, start: tf.Variable, held: tf.Variable, other: Callable[[Any], Any] | None
    ) -> Callable[[Any], Any]:
        def penalty(value: Any) -> Any:
            distance = tf.convert_to_tensor(value) - start
            pull = self._on * tf.reduce_sum(held * tf.square(distance))
            return pull if other is None else pull + other(value)

        return penalty
