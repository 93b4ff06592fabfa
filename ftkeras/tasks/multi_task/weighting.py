"""Models of several heads whose losses have fixed or learned weights.

In validation the loss is the sum under the first weights, so that epochs can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from ftkeras.devices.replicas import examples_of, sum_over_replicas
from ftkeras.graph import Graph, GraphModel
from ftkeras.keras_internals import own_variables
from ftkeras.model.head import logits_name

_LEAST = 1e-3  # of a weight, so that no head is lost for good


class WeighedHeads(keras.Model):
    """A functional model of several outputs whose losses have weights; here these are fixed.

    Compile it with a dict of loss objects. It logs `OUTPUT_loss`, which is a mean over examples
    (Keras's own is one over batches, whatever their sizes), and `OUTPUT_weight` if weights move.

    Args:
        inputs: The images.
        outputs: By head, its output.
        weights: By head, the factor of its loss.
        name: The model's name.
    """

    moving = False
    """Whether the weights change while the model trains."""

    def __init__(
        self,
        inputs: Any,
        outputs: Mapping[str, Any],
        *,
        weights: Mapping[str, float],
        name: str = "heads",
    ):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.heads = tuple(weights)
        self._given = dict(weights)
        shown = ("loss", "weight") if self.moving else ("loss",)
        names = [f"{head}_{what}" for what in shown for head in weights]
        self.shown = {name: keras.metrics.Mean(name=name) for name in names}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        sample_weight = sample_weight or dict.fromkeys(self.heads)
        losses = [self.loss[h](y[h], y_pred[h], sample_weight[h]) for h in self.heads]
        # Keras has divided the losses by the number of replicas, because their gradients are added.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        examples = examples_of(y_pred[self.heads[0]])
        for head, loss, weight in zip(self.heads, losses, tf.unstack(self.now()), strict=True):
            self.shown[f"{head}_loss"].update_state(loss * replicas, sample_weight=examples)
            if self.moving:
                self.shown[f"{head}_weight"].update_state(weight)
        if training:
            total = self.weighed(tf.stack(losses), y, y_pred, sample_weight)
        else:
            total = tf.add_n([self._given[h] * v for h, v in zip(self.heads, losses, strict=True)])
        return total + sum(self.losses) / replicas

    def now(self) -> tf.Tensor:
        """Returns the factor of each head's loss at this step, float32 (heads,)."""
        return tf.constant([self._given[head] for head in self.heads], tf.float32)

    def weighed(self, losses: tf.Tensor, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        """Returns the training loss.

        Args:
            losses: Float32 (heads,), each a mean over examples, as Keras scales it for replicas.
            y: By head, the targets.
            y_pred: By head, the outputs.
            sample_weight: By head, the examples' weights (b,), or None.
        """
        return tf.reduce_sum(self.now() * losses)


class WeighedTail(GraphModel):
    """A part of `WeighedHeads`, from a frontier to the heads, with the loss of the whole.

    Args:
        graph: The part's calls.
        whole: The whole model, compiled.
    """

    def __init__(self, graph: Graph, whole: WeighedHeads):
        super().__init__(graph, "tail", whole)
        # A method, not the model: Keras would track the whole model as a part of this one.
        self._loss_of_whole = whole.compute_loss
        self._learned = list(own_variables(whole)[0])
        self._shown = whole.shown

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        return self._loss_of_whole(x, y, y_pred, sample_weight, training)


class UncertaintyWeighed(WeighedHeads):
    """Weighs losses by the noise of their targets, which it learns with the network.

    Kendall, Gal and Cipolla 2018, "Multi-task learning using uncertainty to weigh losses for scene
    geometry and semantics". The likelihood of targets with variance v turns a loss L into L / v +
    log(v) / 2, and a squared error into L / (2 v) + log(v) / 2. The model learns log(v), from 0. It
    is a weight of the model itself, in no layer, and trains with the head.

    Args:
        inputs: The images.
        outputs: By head, its output.
        weights: By head, the factor of its whole term.
        squared: The heads whose loss is a squared error.
        name: The model's name.
    """

    moving = True

    def __init__(
        self,
        inputs: Any,
        outputs: Mapping[str, Any],
        *,
        weights: Mapping[str, float],
        squared: tuple[str, ...] = (),
        name: str = "heads",
    ):
        super().__init__(inputs, outputs, weights=weights, name=name)
        self._share = [0.5 if head in squared else 1.0 for head in self.heads]
        self.log_variances = self.add_weight(
            shape=(len(self.heads),), initializer="zeros", name="log_variances"
        )

    def now(self) -> tf.Tensor:
        precision = tf.exp(-tf.convert_to_tensor(self.log_variances))
        return super().now() * tf.constant(self._share) * precision

    def weighed(self, losses: tf.Tensor, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        # Keras has divided the losses by the number of replicas, because their gradients are added.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        spread = 0.5 * super().now() * tf.convert_to_tensor(self.log_variances) / replicas
        return tf.reduce_sum(self.now() * losses + spread)


class GradNormWeighed(WeighedHeads):
    """Weighs losses so that all heads learn at similar rates.

    Chen et al. 2018, "GradNorm: gradient normalization for adaptive loss balancing in deep
    multitask networks". A head whose loss has fallen less than the others' gets a larger weight.
    The norm of its weighed gradient is moved toward the mean norm times its relative loss to the
    power of alpha. The norm is of the gradient at the features that all heads read, not at the last
    shared weights. That is cheap, and does not depend on which layers are frozen. A step of the
    weights is relative to the mean norm; afterwards they are scaled to their first sum.

    Args:
        inputs: The images.
        outputs: By head, the output of a dense layer `logits_HEAD` on the shared features.
        weights: By head, the weight to start from.
        alpha: How strongly heads that lag are favoured; 0 equalises the norms.
        rate: The step size of the weights.
        name: The model's name.
    """

    moving = True

    def __init__(
        self,
        inputs: Any,
        outputs: Mapping[str, Any],
        *,
        weights: Mapping[str, float],
        alpha: float = 1.5,
        rate: float = 0.025,
        name: str = "heads",
    ):
        super().__init__(inputs, outputs, weights=weights, name=name)
        self._alpha, self._rate = alpha, rate
        # All replicas compute the same values for them.
        state = {
            "shape": (len(self.heads),), "trainable": False, "aggregation": "only_first_replica",
        }  # fmt: skip
        self.head_weights = self.add_weight(
            initializer=lambda shape, dtype=None: tf.constant(list(weights.values()), dtype),
            name="head_weights",
            **state,
        )
        self.first_losses = self.add_weight(initializer="zeros", name="first_losses", **state)

    def now(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.head_weights)

    def weighed(self, losses: tf.Tensor, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        weights = self.now()  # before this step moves them
        self._balance(y, y_pred, sample_weight)
        return tf.reduce_sum(tf.stop_gradient(weights) * losses)

    def _balance(self, y: Any, y_pred: Any, sample_weight: Any) -> None:
        """Moves the weights by one step."""
        sums = [self._sums(h, y[h], y_pred[h], sample_weight[h]) for h in self.heads]
        loss, squares, counted = tf.unstack(tf.transpose(sum_over_replicas([tf.stack(sums)])[0]))
        there = tf.cast(counted > 0, tf.float32)  # a batch may have no answer for a head
        loss = tf.math.divide_no_nan(loss, counted)
        pull = tf.math.divide_no_nan(tf.sqrt(squares), counted)
        first = tf.convert_to_tensor(self.first_losses)
        first = tf.where((first == 0) & (counted > 0), loss, first)
        self.first_losses.assign(first)
        moved = balanced_weights(
            self.now(), pull, tf.math.divide_no_nan(loss, first), there, self._alpha, self._rate
        )
        self.head_weights.assign(moved)

    def _sums(self, head: str, y: tf.Tensor, y_pred: tf.Tensor, weight: Any) -> tf.Tensor:
        """Returns sums over this replica's examples: loss, squared gradients, weights. (3,)"""
        logits = tf.stop_gradient(y_pred)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            each = self.loss[head].call(y, logits)  # (b,)
            weight = tf.ones_like(each) if weight is None else tf.cast(weight, each.dtype)
            total = tf.reduce_sum(each * weight)
        kernel = tf.convert_to_tensor(self.get_layer(logits_name(head)).kernel)
        at_features = tf.matmul(tape.gradient(total, logits), kernel, transpose_b=True)  # (b, c)
        squares = tf.reduce_sum(tf.square(at_features))
        return tf.stop_gradient(tf.stack([total, squares, tf.reduce_sum(weight)]))


def balanced_weights(
    weights: tf.Tensor,
    norms: tf.Tensor,
    ratios: tf.Tensor,
    there: tf.Tensor,
    alpha: float,
    rate: float,
) -> tf.Tensor:
    """Returns the losses' weights after one step of GradNorm, float32 (heads,).

    Args:
        weights: The weights before it.
        norms: The gradients' norms, of the losses without weights.
        ratios: Each loss by its first value.
        there: 1 if the head had an answer in this batch, otherwise 0, which keeps its weight.
        alpha: How strongly heads that lag are favoured.
        rate: The step size.
    """
    heads = tf.maximum(tf.reduce_sum(there), 1.0)
    there *= tf.cast(heads > 1, tf.float32)  # with one head, rounding errors would move the weight
    mean_norm = tf.reduce_sum(there * weights * norms) / heads
    mean_ratio = tf.reduce_sum(there * ratios) / heads
    wanted = mean_norm * tf.pow(tf.math.divide_no_nan(ratios, mean_ratio), alpha)
    slope = tf.sign(weights * norms - wanted) * tf.math.divide_no_nan(norms, mean_norm)
    moved = tf.maximum(weights - rate * there * slope, _LEAST)
    return moved * tf.reduce_sum(weights) / tf.reduce_sum(moved)
