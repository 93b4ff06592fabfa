"""Makes several replicas compute what one device would: the same mathematics, but for rounding.

In stock Keras 3 (seen in 3.15) the same global batches train differently on several replicas:

- where a batch cannot be divided evenly, each replica's mean counts alike, however few its images;
- gradients are clipped before they are summed over the replicas, so the norm is not the global one;
- gradient accumulation raises, because it exchanges gradients inside a condition;
- loss scaling looks for overflow in the first replica's gradients only;
- batch normalisation that trains uses each replica's own images, and a replica without any gives
  NaN;
- what a step logs is the mean of the replicas' results, which is not the result over all images;
- a replica without any image brings, for a depthwise convolution, whatever was in memory: on a CPU
  TensorFlow (seen in 2.21) leaves the gradient of an empty batch as it was allocated; and with
  oneDNN, which TensorFlow uses where a CPU has AVX-512, a convolution of it has its input's shape;
- `fit` fails at once if the first batch is uneven, and, with several workers, always.

`make_exact` mends these on one model. A test beside each shows that Keras still needs it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.keras_internals import (
    accumulated_gradients,
    attach,
    attached,
    averages_over_axis_0,
    clip_gradients,
    decays_weights_itself,
    flat_layers,
    micro_steps,
    replace_symbolic_build,
    replace_writing,
    symbolic_build,
    uses_weight_decay,
)
from ftkeras.phases.install import template_of as innermost

_CONVOLUTIONS = (
    *(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
    *(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
)


_traced = threading.local()  # each replica is traced in a thread of its own


def make_exact(model: keras.Model) -> None:
    """Mends, on a compiled model, what Keras computes differently on several replicas.

    On one replica it does nothing. It replaces methods of this model and of its optimizer and marks
    batch normalisation as synchronised; the model stays what it is, whatever its class, and any
    `train_step` works that passes its loss through `optimizer.scale_loss`. Losses have to be means
    over examples, as Keras's are by default.

    Args:
        model: Compiled, and made in the strategy's scope.

    Example:
        ```python
        with tf.distribute.MirroredStrategy().scope():
            model = build_model(...)
            model.compile(keras.optimizers.AdamW(), loss="categorical_crossentropy")
        make_exact(model)
        ```
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas == 1 or attached(model, "train_step") is not None:
        return
    for layer in flat_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
        if isinstance(layer, _CONVOLUTIONS) and _misshapes_nothing():
            _pass_by_nothing(layer)
    steps = _ExactSteps(model)
    model.train_step = steps.train_step
    model.compute_metrics = steps.compute_metrics
    replace_symbolic_build(model, steps.build)
    if attached(model.optimizer, "apply") is not None:
        return  # another model, which shares the optimizer, was made exact before
    model.optimizer.scale_loss = steps.scale_loss
    updates = _ExactUpdates(model.optimizer, steps)
    model.optimizer.apply = updates.apply
    replace_writing(innermost(model.optimizer), updates.write)


@functools.cache
def _misshapes_nothing() -> bool:
    """Whether a convolution of an empty batch has another shape than it should."""
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        return False  # what is trained on is not what this would ask
    output = tf.nn.conv2d(tf.zeros((0, 1, 1, 1)), tf.ones((1, 1, 1, 2)), strides=1, padding="VALID")
    return bool(output.shape[-1] != 2)


def _pass_by_nothing(layer: keras.layers.Layer) -> None:
    """Lets a convolution run only where the batch has an example."""
    if attached(layer, "call") is not None:
        return  # the layer is also in another model
    convolve = layer.call

    def call(images: tf.Tensor) -> tf.Tensor:
        sizes = [size or 1 for size in layer.compute_output_shape(images.shape)[1:]]
        return tf.cond(
            tf.shape(images)[0] > 0,
            lambda: convolve(images),
            lambda: tf.zeros((0, *sizes), layer.compute_dtype),
        )

    attach(layer, "call", call)


class _ExactSteps:
    """A model's steps: a replica counts as much as it has examples."""

    def __init__(self, model: keras.Model):
        self._model = model
        self._replicas = model.distribute_strategy.num_replicas_in_sync
        self._train_step = model.train_step
        self._compute_metrics = model.compute_metrics
        self._scale_loss = model.optimizer.scale_loss
        self._wants_vectors = averages_over_axis_0(model.distribute_strategy)

    def train_step(self, data: Any) -> Any:
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        count = tf.cast(tf.shape(tf.nest.flatten(inputs)[0])[0], tf.float32)
        (total,) = _all_sum([count])
        # Keras has divided by the number of replicas already.
        _traced.share = count * self._replicas / tf.maximum(total, 1.0)
        try:
            return self._train_step(data)
        finally:
            del _traced.share

    def only_of_examples(self, gradients: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Returns zeros where this replica has no example; `share` is 0 there."""
        share = getattr(_traced, "share", None)
        if share is None:
            return gradients
        return tf.cond(
            share > 0,
            lambda: [tf.identity(gradient) for gradient in gradients],
            lambda: [tf.zeros_like(gradient) for gradient in gradients],
        )

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Weighs the loss that gradients are taken of; the one that is logged is right as it is."""
        share = getattr(_traced, "share", None)
        return self._scale_loss(loss if share is None else loss * tf.cast(share, loss.dtype))

    def compute_metrics(self, *args: Any, **kwargs: Any) -> Any:
        results = self._compute_metrics(*args, **kwargs)
        context = tf.distribute.get_replica_context()
        if context is None or not isinstance(results, dict):
            return results
        sums = [v for v in self._model.metrics_variables if v.aggregation == "sum"]
        values = _all_sum([tf.convert_to_tensor(v.value) for v in sums])
        with keras.StatelessScope(state_mapping=list(zip(sums, values, strict=True))):
            global_results = self._model.get_metrics_result()
        results = {name: global_results.get(name, value) for name, value in results.items()}
        if self._wants_vectors:
            results = {name: tf.reshape(value, (1,)) for name, value in results.items()}
        return results

    def build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Lets Keras build the model from one replica's part of the first batch."""
        strategy = self._model.distribute_strategy
        for _, _, batches in iterator or ():
            data_batch = tf.nest.map_structure(
                lambda part: strategy.experimental_local_results(part)[0], next(batches)
            )
            break
        with strategy.scope():
            symbolic_build(self._model, data_batch)


class _ExactUpdates:
    """An optimizer's updates: gradients are summed over the replicas before all else.

    Then clipping, loss scaling and accumulation see what they would see on one device.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, steps: _ExactSteps):
        self._apply = optimizer.apply
        self._optimizer = innermost(optimizer)
        self._steps = steps

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        there = [tf.convert_to_tensor(gradient) for gradient in grads if gradient is not None]
        sums = iter(_all_sum(self._steps.only_of_examples(there)) if there else ())
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
