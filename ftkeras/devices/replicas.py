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
`replica_class` log them as one device would. `make_exact` sees to the optimizer.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from ftkeras.data.share import Rows
from ftkeras.keras_internals import (
    BuiltFromOneReplica,
    accumulated_gradients,
    attached,
    clip_gradients,
    decays_weights_itself,
    flat_layers,
    micro_steps,
    replace_writing,
    uses_weight_decay,
)
from ftkeras.phases.rates import innermost

_Model = keras.Model if TYPE_CHECKING else object  # what `ReplicaSteps` is mixed into

_traced = threading.local()  # each replica is traced in a thread of its own


def replicated(model: keras.Model) -> keras.Model:
    """Returns a model that shares all layers, for `fit` on padded batches of several replicas.

    Call it in the strategy's scope. With one replica, or if the model's class is one of
    `replica_class`, the model itself comes back. Batch normalisation becomes synchronised.

    Args:
        model: A Functional or Sequential model that is not compiled yet.

    Example:
        ```python
        with tf.distribute.MirroredStrategy().scope():
            model = replicated(keras.Model(inputs, outputs))
            model.compile(keras.optimizers.AdamW(), loss="categorical_crossentropy")
            make_exact(model)
        model.fit(spread(share_of(batches, model.distribute_strategy), model.distribute_strategy))
        ```
    """
    if _replicas() == 1:
        return model
    for layer in flat_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    if isinstance(model, ReplicaSteps):
        return model
    if isinstance(model, keras.Sequential):  # which has no `input` before it is called
        [inputs], [outputs] = model.inputs, model.outputs
    else:
        inputs, outputs = model.input, model.output
    return replica_class(keras.Model)(inputs, outputs, name=model.name)


def replica_class(own: type[keras.Model]) -> type[keras.Model]:
    """Returns the class with the steps of several replicas; with one replica, the class itself.

    For models with a `train_step` or `compute_loss` of their own, made in the strategy's scope.
    """
    return own if _replicas() == 1 else _with_steps(own)


@functools.cache
def _with_steps(own: type[keras.Model]) -> type[keras.Model]:
    return type(f"Replica{own.__name__}", (ReplicaSteps, own), {})


class ReplicaSteps(BuiltFromOneReplica, _Model):
    """Mixed into a model's class, it reads the `Rows` of padded batches.

    The loss that `fit` logs is the mean over examples: Keras weighs a batch's loss by its rows, and
    a second update corrects that. What a step logs is the result over all replicas.
    """

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        with _rows_of(sample_weight) as weights:
            loss = super().compute_loss(x, y, y_pred, weights, training)
            first = keras.tree.flatten(x)[0]
            examples = examples_of(first) - tf.cast(tf.shape(first)[0], tf.float32)
        # Keras has divided the loss by the number of replicas.
        self.metrics[0].update_state(loss * _replicas(), sample_weight=examples)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        with _rows_of(sample_weight) as weights:
            results = super().compute_metrics(x, y, y_pred, weights)
        context = tf.distribute.get_replica_context()
        if context is None or not isinstance(results, dict):
            return results
        sums = [v for v in self.metrics_variables if v.aggregation == "sum"]
        values = _all_sum([tf.convert_to_tensor(v.value) for v in sums])
        with keras.StatelessScope(state_mapping=list(zip(sums, values, strict=True))):
            everywhere = self.get_metrics_result()
        results = {name: everywhere.get(name, value) for name, value in results.items()}
        if isinstance(context.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Of several workers Keras takes the mean over an axis, which a scalar lacks.
            results = {name: tf.reshape(value, (1,)) for name, value in results.items()}
        return results


@contextmanager
def _rows_of(sample_weight: Any) -> Iterator[Any]:
    """Yields the weights; within this block `examples_of` and `real_of` know the rows."""
    if not isinstance(sample_weight, Rows):  # of a person who measures the model, say
        yield sample_weight
        return
    _traced.rows = sample_weight
    try:
        yield sample_weight.weights
    finally:
        del _traced.rows


def examples_of(tensor: tf.Tensor) -> tf.Tensor:
    """Returns how many examples this replica's part of a batch counts for, a float32 scalar.

    For a mean over examples that a model logs, in its `compute_loss` or `compute_metrics`.

    Args:
        tensor: Has a row for each of the batch, (b, ...).
    """
    rows = getattr(_traced, "rows", None)
    return (
        tf.cast(tf.shape(tensor)[0], tf.float32) if rows is None else tf.reduce_sum(rows.examples)
    )


def real_of(tensor: tf.Tensor) -> tf.Tensor:
    """Returns 1 for each row that is an example, 0 for padding, float32 (b,); see `examples_of`."""
    rows = getattr(_traced, "rows", None)
    return tf.ones(tf.shape(tensor)[:1]) if rows is None else rows.real


def make_exact(model: keras.Model) -> None:
    """Makes an optimizer sum gradients over the replicas before it clips or accumulates them.

    On one replica it does nothing. It replaces methods of the model's optimizer.

    Args:
        model: Compiled, and made in the strategy's scope.
    """
    optimizer = model.optimizer
    several = model.distribute_strategy.num_replicas_in_sync > 1
    if several and attached(optimizer, "apply") is None:
        updates = _ExactUpdates(optimizer)
        optimizer.apply = updates.apply
        replace_writing(innermost(optimizer), updates.write)


def _replicas() -> int:
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


class _ExactUpdates:
    """An optimizer's updates: gradients are summed over the replicas before all else.

    Then clipping, loss scaling and accumulation see what they would see on one device.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        self._apply = optimizer.apply
        self._optimizer = innermost(optimizer)

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        there = [tf.convert_to_tensor(gradient) for gradient in grads if gradient is not None]
        sums = iter(_all_sum(there) if there else ())
        self._apply([None if g is None else next(sums) for g in grads], trainable_variables)

    def write(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[Any]) -> None:
        """Takes the place of Keras's updates; all replicas bring the same gradients."""
        optimizer = self._optimizer
        every = optimizer.gradient_accumulation_steps or 1
        kept: list[Any] = []
        if every > 1:
            kept = accumulated_gradients(optimizer, trainable_variables)
            grads = [gradient + k for gradient, k in zip(grads, kept, strict=True)]
        ready = clip_gradients(optimizer, [gradient / every for gradient in grads])

        def write_all(strategy: Any, sums: Sequence[Any], ready: Sequence[Any]) -> None:
            # Here, between the replicas, a condition may hold updates.
            def update() -> None:
                rate = optimizer.learning_rate
                for variable, gradient in zip(trainable_variables, ready, strict=True):
                    self._everywhere(strategy, variable, self._update, gradient, rate)
                for k in kept:
                    self._everywhere(strategy, k, _clear)

            def keep() -> None:
                for k, total in zip(kept, sums, strict=True):
                    self._everywhere(strategy, k, _assign, total)

            if every == 1:
                update()
            else:
                keras.ops.cond((micro_steps(optimizer) + 1) % every == 0, update, keep)

        tf.distribute.get_replica_context().merge_call(write_all, args=(list(grads), list(ready)))

    def _everywhere(self, strategy: Any, variable: Any, function: Any, *args: Any) -> None:
        strategy.extended.update(
            getattr(variable, "value", variable), function, args=args, group=False
        )

    def _update(self, variable: Any, gradient: Any, rate: Any) -> None:
        optimizer = self._optimizer
        decays = decays_weights_itself(optimizer)  # else `WeightRates` does it
        if decays and optimizer.weight_decay and uses_weight_decay(optimizer, variable):
            variable.assign_sub(variable * tf.cast(rate * optimizer.weight_decay, variable.dtype))
        optimizer.update_step(gradient, variable, rate)


def sum_over_replicas(tensors: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Returns the sums over all replicas, on each of them; gradients flow back to all.

    For losses that compare the examples of a batch, which would else see a replica's own alone.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    return _all_sum(tensors)


def _all_sum(tensors: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Returns the sums over all replicas, on each of them."""
    context = tf.distribute.get_replica_context()
    devices = context.strategy.extended.worker_devices
    if len(devices) == 1:  # then TensorFlow wants the tensor's own to be said
        with tf.device(devices[0]):
            tensors = [tf.identity(tensor) for tensor in tensors]
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def _assign(variable: Any, value: Any) -> None:
    variable.assign(value)


def _clear(variable: Any) -> None:
    variable.assign(tf.zeros_like(variable))
