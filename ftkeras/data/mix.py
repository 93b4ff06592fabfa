"""MixUp and CutMix: batches whose images and labels are blends of two."""

from __future__ import annotations

import tensorflow as tf

Batch = tuple[tf.Tensor, ...]


def mix_batch(batch: Batch, seed: tf.Tensor, mixup: float, cutmix: float) -> Batch:
    """Blends each example with another of its batch, by one of the methods that are on.

    Args:
        batch: Images float32 (b, s, s, 3), labels float32 (b, classes), and perhaps weights
            float32 (b,); labels and weights are blended as the images are.
        seed: int32 (2,); it alone decides what happens.
        mixup: Alpha of MixUp's beta distribution; 0 is off.
        cutmix: Alpha of CutMix's beta distribution; 0 is off.

    Returns:
        The batch, in the same shapes.
    """
    choice, draw, box = tf.unstack(tf.random.split(seed, 3), num=3)
    methods = []
    if mixup > 0:
        methods.append(lambda: mix_up(batch, sample_beta(mixup, draw)))
    if cutmix > 0:
        methods.append(lambda: cut_mix(batch, sample_beta(cutmix, draw), box))
    if not methods:
        return batch
    which = tf.random.stateless_uniform((), choice, 0, len(methods), tf.int32)
    return tf.switch_case(which, methods)


def mix_up(batch: Batch, share: tf.Tensor) -> Batch:
    """Blends each example with its neighbour: `share` of itself, the rest of the neighbour.

    Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization.
    """
    return tuple(share * part + (1.0 - share) * tf.roll(part, 1, axis=0) for part in batch)


def cut_mix(batch: Batch, share: tf.Tensor, seed: tf.Tensor) -> Batch:
    """Pastes a rectangle of each example's neighbour, of about 1 - `share` of the area.

    Labels are blended by the area that the rectangle really takes, once cut off at the border.
    Yun et al. 2019, CutMix: Regularization Strategy to Train Strong Classifiers.
    """
    images, *others = batch
    size = tf.shape(images)[1:3]
    half = tf.sqrt(1.0 - share) * tf.cast(size, tf.float32) / 2.0  # (2,)
    centre = tf.random.stateless_uniform((2,), seed) * tf.cast(size, tf.float32)  # (2,)
    low = tf.clip_by_value(tf.cast(tf.round(centre - half), tf.int32), 0, size)
    high = tf.clip_by_value(tf.cast(tf.round(centre + half), tf.int32), 0, size)
    rows, columns = tf.range(size[0]), tf.range(size[1])
    in_rows = (rows >= low[0]) & (rows < high[0])  # (s,)
    in_columns = (columns >= low[1]) & (columns < high[1])  # (s,)
    inside = (in_rows[:, tf.newaxis] & in_columns[tf.newaxis])[..., tf.newaxis]  # (s, s, 1)
    kept = 1.0 - tf.reduce_mean(tf.cast(inside, tf.float32))
    return (tf.where(inside, tf.roll(images, 1, axis=0), images), *mix_up(tuple(others), kept))


def sample_beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws from Beta(alpha, alpha): float32 scalar in 0..1."""
    first, second = tf.unstack(tf.random.stateless_gamma((2,), seed, alpha, dtype=tf.float32))
    return tf.math.divide_no_nan(first, first + second)
