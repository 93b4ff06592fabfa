"""Gradients of one-pixel convolutions as products of matrices: much faster on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from ftkeras.keras_internals import attach, detach, flat_layers

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@contextmanager
def quick_pointwise_gradients(model: keras.Model) -> Iterator[None]:
    """Within this block, gradients of the model's 1x1 convolutions are computed by `tf.matmul`.

    The gradients differ only by rounding; the outputs of the layers stay the same to the bit. On a
    CPU, TensorFlow's gradient of a convolution unfolds maps first, which a 1x1 kernel doesn't need.
    Modern backbones spend most of their time in 1x1 kernels. GPUs and TPUs do this by themselves,
    so nothing changes on them.

    Args:
        model: A built model; train functions that are traced within the block are faster.
    """
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        yield
        return
    layers = [layer for layer in flat_layers(model) if _is_pointwise(layer)]
    for layer in layers:
        attach(layer, "convolution_op", pointwise)
    try:
        yield
    finally:
        for layer in layers:
            detach(layer, "convolution_op")


def _is_pointwise(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) is keras.layers.Conv2D
        and layer.kernel_size == layer.strides == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def pointwise(maps: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves maps (b, h, w, c) with a kernel (1, 1, c, d), which gives (b, h, w, d)."""
    # Keras passes its variables, which eager gradients do not take.
    convolved: tf.Tensor = _pointwise(tf.convert_to_tensor(maps), tf.convert_to_tensor(kernel))
    return convolved


@tf.custom_gradient
def _pointwise(maps: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Gradient]:

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        channels, filters = kernel.shape[2:]
        rows = tf.reshape(upstream, (-1, filters))  # (b * h * w, d)
        of_maps = tf.matmul(rows, kernel[0, 0], transpose_b=True)  # (b * h * w, c)
        of_kernel = tf.matmul(tf.reshape(maps, (-1, channels)), rows, transpose_a=True)
        return tf.reshape(of_maps, tf.shape(maps)), tf.reshape(of_kernel, kernel.shape)

    return tf.nn.conv2d(maps, kernel, strides=1, padding="VALID"), gradient
