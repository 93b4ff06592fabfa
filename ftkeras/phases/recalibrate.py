"""Batch-norm statistics estimated again, with all weights fixed."""

from __future__ import annotations

import keras
import tensorflow as tf

from ftkeras.keras_internals import flat_layers


def recalibrate_batch_norm(
    model: keras.Model, data: tf.data.Dataset, max_batches: int = 200
) -> int:
    """Sets the moving statistics of every batch normalisation to those of the given data.

    Each batch's own mean and variance are averaged over the batches ("precise" statistics: Wu and
    Johnson 2021, section 3), instead of the moving average that training leaves. On the data of a
    new domain this is AdaBN (Li et al. 2017).

    Args:
        model: Its weights and other state stay as they are.
        data: Batches of inputs, or of (inputs, ...) as `fit` takes them.
        max_batches: How many batches are enough.

    Returns:
        How many batches were used.

    Example:
        ```python
        recalibrate_batch_norm(model, train_batches)
        ```
    """
    layers = [
        layer for layer in flat_layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not layers:
        return 0
    statistics = [s for layer in layers for s in (layer.moving_mean, layer.moving_variance)]
    before = [(layer, layer.momentum, layer.trainable) for layer in layers]
    flags = [(variable, variable.trainable) for variable in model.variables]
    sums = [tf.zeros(s.shape, tf.float64) for s in statistics]
    batches = 0
    try:
        for layer in layers:
            layer.momentum, layer.trainable = 0.0, True  # the statistics become the batch's own

        @tf.function(reduce_retracing=True)
        def measure(batch: tf.Tensor) -> list[tf.Tensor]:
            model(batch, training=True)
            return [tf.cast(tf.convert_to_tensor(s.value), tf.float64) for s in statistics]

        for element in data.take(max_batches):
            batch = element[0] if isinstance(element, tuple) else element
            sums = [total + value for total, value in zip(sums, measure(batch), strict=True)]
            batches += 1
    finally:
        for layer, momentum, trainable in before:
            layer.momentum, layer.trainable = momentum, trainable
        for variable, trainable in flags:
            variable.trainable = trainable
    for statistic, total in zip(statistics, sums, strict=True):
        if batches:
            statistic.assign(tf.cast(total / batches, tf.float32))
    return batches
