"""Losses and a measure of two domains in one batch: rows of the target have labels of zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from ftkeras.devices.replicas import sum_over_replicas


class RowLoss(keras.losses.Loss):
    """A loss made of a function that returns a value per row; scaled and averaged like Keras's.

    Args:
        rows: From 1.0 for rows of the source, 0.0 for others (n,), and answers (n, ...) to (n,).
    """

    def __init__(self, rows: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]):
        super().__init__()
        self._rows = rows

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns a value per row."""
        return self._rows(y_true, y_pred)


def is_source(labels: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 for rows with a label, 0.0 for rows of the target, (n,)."""
    return tf.cast(tf.reduce_sum(labels, axis=-1) > 0, tf.float32)


def coral(source: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the distance between the covariances of both domains, repeated (n,).

    Deep CORAL (Sun and Saenko 2016): the squared Frobenius norm of their difference, divided by
    four times the squared width. Covariances are of the whole batch, over all replicas.
    """
    masks = tf.stack([source, 1.0 - source])  # (2, n)
    sums = [
        tf.reduce_sum(masks, axis=1),  # (2,)
        masks @ logits,  # (2, classes)
        tf.einsum("dn,ni,nj->dij", masks, logits, logits),  # (2, classes, classes)
    ]
    count, first, second = sum_over_replicas(sums)
    count = tf.maximum(count, 1.0)[:, tf.newaxis, tf.newaxis]
    outer = first[:, :, tf.newaxis] * first[:, tf.newaxis, :]
    covariance = (second - outer / count) / tf.maximum(count - 1.0, 1.0)
    apart = tf.reduce_sum(tf.square(covariance[0] - covariance[1]))
    width = tf.cast(tf.shape(logits)[1], tf.float32)
    return tf.fill(tf.shape(source), apart / (4.0 * width**2))


def tell_apart(source: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of classifying the domains; answers are logits (n, 1)."""
    return tf.nn.sigmoid_cross_entropy_with_logits(source, answers[:, 0])


def pseudo_labels(source: tf.Tensor, logits: tf.Tensor, threshold: float) -> tf.Tensor:
    """Returns the target's cross-entropy with its own answers, if these are sure enough.

    It counts twice: the mean is over all rows, and half of them are the target's.
    """
    likely = tf.reduce_max(tf.nn.softmax(logits), axis=-1)
    answers = tf.argmax(logits, axis=-1)
    chosen = tf.stop_gradient((1.0 - source) * tf.cast(likely >= threshold, tf.float32))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(answers, logits)
    return 2.0 * chosen * losses


class GradientReversal(keras.layers.Layer):
    """Returns its input, and reverses the sign of gradients (Ganin et al. 2016).

    Args:
        strength: The factor of gradients before their sign is reversed.
    """

    def __init__(self, strength: tf.Variable, **kwargs: Any):
        super().__init__(**kwargs)
        self._strength = strength

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the input."""

        @tf.custom_gradient
        def reverse(values: tf.Tensor, strength: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
                return -tf.cast(strength, upstream.dtype) * upstream, None

            return tf.identity(values), gradients

        return reverse(inputs, tf.convert_to_tensor(self._strength))


class TargetDoubt(keras.metrics.Metric):
    """Mean entropy of the target's answers, less the entropy of their mean; it needs no labels.

    The negative mutual information of images and answers. It is lowest if each answer is sure and
    all classes are answered equally often; the same sure answer for all images is not good. It
    ranges from -log(classes) to 0.
    """

    def __init__(self, classes: int, name: str = "target_doubt"):
        super().__init__(name=name)
        self._count = self.add_variable((), "zeros", name="count")
        self._entropy = self.add_variable((), "zeros", name="entropy")
        self._sum = self.add_variable((classes,), "zeros", name="sum")

    def update_state(self, source: tf.Tensor, logits: tf.Tensor, sample_weight: Any = None) -> None:
        """Counts the rows of the target.

        Args:
            source: 1.0 for rows of the source, (n,).
            logits: (n, classes).
            sample_weight: 0 for rows to leave out, (n,); None leaves out none.
        """
        target = 1.0 - source if sample_weight is None else (1.0 - source) * sample_weight
        logs = tf.nn.log_softmax(tf.cast(logits, tf.float32))
        shares = tf.exp(logs)
        self._count.assign_add(tf.reduce_sum(target))
        self._entropy.assign_add(-tf.reduce_sum(target[:, tf.newaxis] * shares * logs))
        self._sum.assign_add(tf.linalg.matvec(shares, target, transpose_a=True))

    def result(self) -> tf.Tensor:
        """Returns the doubt so far; 0 without any row of the target."""
        count = tf.convert_to_tensor(self._count)
        mean = tf.math.divide_no_nan(tf.convert_to_tensor(self._sum), count)
        of_mean = -tf.reduce_sum(tf.math.xlogy(mean, mean))
        return tf.math.divide_no_nan(tf.convert_to_tensor(self._entropy), count) - of_mean
