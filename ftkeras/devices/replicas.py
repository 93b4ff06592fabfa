"""Several replicas compute what one device would: the same mathematics, except for rounding.

In stock Keras 3 (3.15) the same global batches train differently on several replicas:

- if a batch cannot be divided evenly, each replica's mean counts alike, however few its examples;
- gradients are clipped before they are summed over the replicas, so the norm is not the global one;
- gradient accumulation raises, because it exchanges gradients inside a condition;
- loss scaling looks for overflow in the first replica's gradients only;
- batch normalisation that trains uses each replica's own examples;
- what a step logs is the mean of the replicas' results, which is not the result over all examples;
- `fit` fails at once with several workers.

Batches that `ftkeras.data.share` has padded make the replicas' losses right, and models of
`replica_class` log them as one device would. `ftkeras.phases.optimizer` does the rest.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from ftkeras.data.share import Rows
from ftkeras.keras_internals import BuiltFromOneReplica, flat_layers

_STEPS = ("train_step", "test_step", "compute_loss", "compute_metrics")

_traced = threading.local()  # each replica is traced in a thread of its own


def replicated(model: keras.Model) -> keras.Model:
    """Returns a model that shares all layers, for `fit` on padded batches of several replicas.

    Call it in the strategy's scope. With one replica, or if the model's class is one of
    `replica_class`, the model itself comes back. Batch normalisation becomes synchronised.

    Args:
        model: A Functional or Sequential model that is not compiled yet.

    Raises:
        TypeError: Its class has steps of its own, and is none of `replica_class`.

    Example:
        ```python
        strategy = tf.distribute.MirroredStrategy()
        with strategy.scope():
            model = replicated(keras.Model(inputs, outputs))
            model.compile(keras.optimizers.AdamW(), loss="categorical_crossentropy")
        unfreeze = StagedUnfreezing(model, phases)
        model.fit(spread(share_of(batches, strategy), strategy), callbacks=[unfreeze])
        ```
    """
    if _replicas() == 1:
        return model
    for layer in flat_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    if isinstance(model, ReplicaSteps):
        return model
    if own := own_steps(model):
        raise TypeError(f"{type(model).__name__} has its own {own[0]}: make it by `replica_class`.")
    if isinstance(model, keras.Sequential):  # which has no `input` before it is called
        [inputs], [outputs] = model.inputs, model.outputs
    else:
        inputs, outputs = model.input, model.output
    return replica_class(keras.Model)(inputs, outputs, name=model.name)


def replica_class(own: Any) -> Any:
    """Returns the class with the steps of several replicas; with one replica, the class itself.

    For models with a `train_step` or `compute_loss` of their own, made in the strategy's scope.

    Args:
        own: A subclass of `keras.Model`.
    """
    return own if _replicas() == 1 else _with_steps(own)


@functools.cache
def _with_steps(own: Any) -> Any:
    return type(f"Replica{own.__name__}", (ReplicaSteps, own), {"own_class": own})


def own_steps(model: keras.Model) -> list[str]:
    """Returns which steps of `fit` a model's class does in its own way, apart from replicas."""
    own = getattr(model, "own_class", type(model))
    return [name for name in _STEPS if getattr(own, name) is not getattr(keras.Model, name)]


class ReplicaSteps(BuiltFromOneReplica):
    """Mixed into a model's class, it reads the `Rows` of padded batches.

    The loss that `fit` logs is the mean over examples: Keras weighs a batch's loss by its rows, and
    a second update corrects that. What a step logs is the result over all replicas.
    """

    def compute_loss(
        self: Any,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the loss of this replica's rows, and corrects what it counts for in the logs."""
        compute_loss = super().compute_loss  # type: ignore[misc]
        if not isinstance(sample_weight, Rows):  # someone measures the model, say
            return compute_loss(x, y, y_pred, sample_weight, training)
        with _knowing(sample_weight):
            loss = compute_loss(x, y, y_pred, sample_weight.weights, training)
        first = keras.tree.flatten(x)[0]  # Keras weighs the loss by its rows
        counted = tf.reduce_sum(sample_weight.examples) - tf.cast(tf.shape(first)[0], tf.float32)
        # Keras has divided the loss by the number of replicas.
        self.metrics[0].update_state(loss * _replicas(), sample_weight=counted)
        return loss

    def compute_metrics(self: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the results over all replicas."""
        compute_metrics = super().compute_metrics  # type: ignore[misc]
        if isinstance(sample_weight, Rows):
            with _knowing(sample_weight):
                results = compute_metrics(x, y, y_pred, sample_weight.weights)
        else:
            results = compute_metrics(x, y, y_pred, sample_weight)
        context = tf.distribute.get_replica_context()
        if context is None or not isinstance(results, dict):
            return results
        sums = [v for v in self.metrics_variables if v.aggregation == "sum"]
        values = sum_over_replicas([tf.convert_to_tensor(v.value) for v in sums])
        with keras.StatelessScope(state_mapping=list(zip(sums, values, strict=True))):
            everywhere = self.get_metrics_result()
        results = {name: everywhere.get(name, value) for name, value in results.items()}
        if isinstance(context.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Of several workers Keras takes the mean over an axis, which a scalar lacks.
            results = {name: tf.reshape(value, (1,)) for name, value in results.items()}
        return results


@contextmanager
def _knowing(rows: Rows) -> Iterator[None]:
    """Within this block `examples_of` and `real_of` know the rows."""
    _traced.rows = rows
    try:
        yield
    finally:
        del _traced.rows


def examples_of(tensor: tf.Tensor) -> tf.Tensor:
    """Returns how many examples this replica's part of a batch counts for, a float32 scalar.

    For a mean over examples that a model logs, in its `compute_loss` or `compute_metrics`.

    Args:
        tensor: Has a row for each of the batch, (b, ...).
    """
    rows = getattr(_traced, "rows", None)
    if rows is None:
        return tf.cast(tf.shape(tensor)[0], tf.float32)
    return tf.reduce_sum(rows.examples)


def real_of(tensor: tf.Tensor) -> tf.Tensor:
    """Returns 1 for each row that is an example, 0 for padding, float32 (b,); see `examples_of`."""
    rows = getattr(_traced, "rows", None)
    return tf.ones(tf.shape(tensor)[:1]) if rows is None else rows.real


def _replicas() -> int:
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def sum_over_replicas(tensors: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Returns the sums over all replicas, on each of them; gradients flow back to all.

    For losses that compare the examples of a batch, which would otherwise be those of one replica.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    devices = context.strategy.extended.worker_devices
    if len(devices) == 1:  # then TensorFlow wants the tensor's own to be said
        with tf.device(devices[0]):
            tensors = [tf.identity(tensor) for tensor in tensors]
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))
