"""From raw pixels to what a backbone's weights expect, inside the model."""

from __future__ import annotations

from typing import Any

import keras

from ftkeras.errors import UserError

RAW = "image"
"""The name of a model's input that takes raw images."""
_TORCH_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB, 0..1
_TORCH_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # of ImageNet, BGR, 0..255


def preprocess(images: Any, kind: str) -> Any:
    """Applies the preprocessing that belongs to a backbone.

    It uses only layers and operations of Keras, so that the saved model loads in safe mode without
    ftkeras. They compute in float32 under any policy: bfloat16 would round pixels.

    Args:
        images: Tensor (batch, height, width, 3), float32, RGB, 0..255.
        kind: none, tf (to -1..1), torch (minus the mean of ImageNet, by its deviation), or caffe
            (to BGR, minus the mean of ImageNet).

    Returns:
        Tensor (batch, height, width, 3), float32.

    Example:
        >>> float(preprocess(keras.ops.ones((1, 1, 1, 3)) * 255.0, "tf")[0, 0, 0, 0])
        1.0
    """
    if kind == "none":
        return images
    if kind == "tf":
        return _rescale(1 / 127.5, -1.0)(images)
    if kind == "torch":
        scale = [1 / (255 * deviation) for deviation in _TORCH_DEVIATION]
        offset = [-m / d for m, d in zip(_TORCH_MEAN, _TORCH_DEVIATION, strict=True)]
        return _rescale(scale, offset)(images)
    if kind == "caffe":
        bgr = keras.ops.flip(images, axis=-1)
        return _rescale(1.0, [-m for m in _CAFFE_MEAN])(bgr)
    raise UserError(f"preprocessing: {kind!r} is none of none, tf, torch, caffe.")


def _rescale(scale: float | list[float], offset: float | list[float]) -> keras.layers.Layer:
    return keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")
