"""Keeps decoded images in memory where they are few enough. It changes speed, never a pixel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from ftkeras.console import track
from ftkeras.data.dataset import Fetch, Split
from ftkeras.inputs.image.decode import Crop, cut, resize_image
from ftkeras.memory import available_memory

_SAMPLES = 16  # images decoded to estimate how large all are


def keep_in_memory(
    split: Split, cache: str, square: tuple[int, str] | None, least: int = 0
) -> tuple[Fetch, bool]:
    """Decodes all images of a split now, if that is asked for and there is room.

    Args:
        split: The examples.
        cache: "memory", "auto" (where a quarter of the free memory is enough) or "none".
        square: Size and mode to resize to before keeping; None keeps the images whole.
        least: How many pixels of an image's shorter side are enough.

    Returns:
        What fetches an image by its index, and whether that image is already resized.
    """
    if cache == "none" or (
        cache == "auto" and _needed(split, square, least) > available_memory() // 4
    ):
        return split.fetch, False

    @tf.autograph.experimental.do_not_convert
    def prepare(index: tf.Tensor) -> tf.Tensor:
        image = split.fetch(index, least)
        # Resized images are whole numbers, so a byte holds them.
        return tf.cast(resize_image(image, *square), tf.uint8) if square else image

    indices = tf.data.Dataset.range(len(split))
    images = indices.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    label = f"decode {split.name} images into memory"
    decoded = track(images.as_numpy_iterator(), label, len(split))
    if square:
        return _from_stack(decoded, (len(split), square[0], square[0], 3)), True
    return _from_buffer(list(decoded)), False


def _from_stack(decoded: Iterable[np.ndarray], shape: tuple[int, int, int, int]) -> Fetch:
    stack = np.empty(shape, np.uint8)
    for i, image in enumerate(decoded):
        stack[i] = image
    with tf.device("CPU:0"):
        images = tf.constant(stack)  # (n, s, s, 3)
    return lambda index, least=0, part=None: cut(tf.gather(images, index), part)


def _from_buffer(decoded: list[np.ndarray]) -> Fetch:
    """Images of any sizes, one after the other in one buffer."""
    sizes = np.array([image.size for image in decoded], np.int64)
    with tf.device("CPU:0"):
        shapes = tf.constant([image.shape for image in decoded], tf.int32)  # (n, 3)
        starts = tf.constant(np.cumsum(sizes) - sizes)  # (n,)
        lengths = tf.constant(sizes)  # (n,)
        buffer = tf.constant(np.concatenate([image.ravel() for image in decoded]))

    def fetch(index: tf.Tensor, least: int = 0, part: Crop | None = None) -> tf.Tensor:
        flat = tf.slice(buffer, starts[index, tf.newaxis], lengths[index, tf.newaxis])
        image = tf.ensure_shape(tf.reshape(flat, shapes[index]), (None, None, 3))
        return cut(image, part)

    return fetch


def _needed(split: Split, square: tuple[int, str] | None, least: int) -> int:
    """Bytes that the images would take; from a sample where their sizes differ."""
    if square:
        return len(split) * square[0] ** 2 * 3
    sample = np.unique(np.linspace(0, len(split) - 1, _SAMPLES).astype(np.int64))
    sizes = [int(tf.size(split.fetch(tf.constant(i), least))) for i in sample]
    return int(np.mean(sizes) * len(split))
