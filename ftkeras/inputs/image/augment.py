"""Random changes to training images, each a function of the image and a seed.

A strength is a row of `STRENGTHS`; a list of layers replaces it. Nothing here keeps state, so the
same seed gives the same pixels in whatever order images are prepared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Strength:
    """The limits of one strength.

    Args:
        scale: The least share of the image's area that a random crop takes; 1 crops nothing.
        ratio: The greatest width / height of the crop, and its inverse the least.
        flip: The probability of a horizontal flip.
        jitter: Brightness, contrast and saturation change by a factor in 1 - jitter..1 + jitter.
        hue: The hue turns by at most this share of the circle.
        rotate: The greatest angle, in degrees.
        erase: The probability that a rectangle is blanked out.
    """

    scale: float = 1.0
    ratio: float = 1.0
    flip: float = 0.0
    jitter: float = 0.0
    hue: float = 0.0
    rotate: float = 0.0
    erase: float = 0.0


STRENGTHS = {
    "none": Strength(),
    "light": Strength(scale=0.8, ratio=10 / 9, flip=0.5),
    "medium": Strength(scale=0.5, ratio=4 / 3, flip=0.5, jitter=0.2),
    "strong": Strength(
        scale=0.25, ratio=4 / 3, flip=0.5, jitter=0.4, hue=0.05, rotate=15, erase=0.25
    ),
}


def augment_image(image: tf.Tensor, seed: tf.Tensor, strength: Strength) -> tf.Tensor:
    """Applies a strength's changes after the random crop, which the pipeline does.

    Args:
        image: float32 (s, s, 3), 0..255.
        seed: int32 (2,); it alone decides the changes.
        strength: One of `STRENGTHS`.

    Returns:
        float32 (s, s, 3), 0..255.
    """
    seeds = tf.unstack(tf.random.split(seed, 8), num=8)

    def draw(i: int, low: float, high: float) -> tf.Tensor:
        return tf.random.stateless_uniform((), seeds[i], low, high)

    if strength.flip:
        view = image
        flips = draw(0, 0.0, 1.0) < strength.flip
        image = tf.cond(flips, lambda: tf.reverse(view, (1,)), lambda: view)
    if strength.rotate:
        image = rotate(image, draw(1, -strength.rotate, strength.rotate))
    if strength.jitter:
        low, high = 1.0 - strength.jitter, 1.0 + strength.jitter
        image = jitter(image, draw(2, low, high), draw(3, low, high), draw(4, low, high))
    if strength.hue:
        image = tf.image.adjust_hue(image / 255.0, draw(5, -strength.hue, strength.hue)) * 255.0
    if strength.erase:
        whole = image
        erases = draw(7, 0.0, 1.0) < strength.erase
        image = tf.cond(erases, lambda: erase(whole, seeds[6]), lambda: whole)
    return image


def jitter(
    image: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor, saturation: tf.Tensor
) -> tf.Tensor:
    """Multiplies brightness, the distance from the mean grey, and the distance from grey."""
    image = tf.clip_by_value(image * brightness, 0.0, 255.0)
    mean = tf.reduce_mean(_grey(image))
    image = tf.clip_by_value(mean + (image - mean) * contrast, 0.0, 255.0)
    grey = _grey(image)
    return tf.clip_by_value(grey + (image - grey) * saturation, 0.0, 255.0)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """Luma (ITU-R BT.601) of an image: (s, s, 1). TensorFlow's own takes twice the time."""
    red, green, blue = tf.split(image, 3, axis=-1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turns an image (s, s, 3) about its centre, counter-clockwise; mirrors it at its edges."""
    angle = degrees * (math.pi / 180.0)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    centre = (tf.cast(tf.shape(image)[0], tf.float32) - 1.0) / 2.0
    zero = tf.zeros_like(angle)
    transform = tf.stack(  # output (x, y) -> input (x, y), about the centre
        [cosine, -sine, centre * (1.0 - cosine + sine)]
        + [sine, cosine, centre * (1.0 - cosine - sine), zero, zero]
    )
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=transform[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return tf.ensure_shape(turned[0], image.shape)


def erase(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Sets a random rectangle to mid-grey (Zhong et al. 2017): 2% to 33% of the area."""
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((0, 0, 4)),
        seed,
        min_object_covered=0.0,
        area_range=(0.02, 0.33),
        aspect_ratio_range=(0.3, 3.3),
        use_image_if_no_bounding_boxes=True,
    )
    rows, columns = tf.range(tf.shape(image)[0]), tf.range(tf.shape(image)[1])
    in_rows = (rows >= begin[0]) & (rows < begin[0] + extent[0])  # (s,)
    in_columns = (columns >= begin[1]) & (columns < begin[1] + extent[1])  # (s,)
    inside = in_rows[:, tf.newaxis] & in_columns[tf.newaxis]  # (s, s)
    return tf.where(inside[..., tf.newaxis], 127.0, image)
