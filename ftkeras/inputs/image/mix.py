"""MixUp and CutMix: batches whose images and labels are blends of two."""

from __future__ import annotations

import tensorflow as tf

Batch = tuple[tf.Tensor, ...]


def mix_batch(batch: Batch, seed: tf.Tensor, mixup: float, cutmix: float, maps: int = 1) -> Batch:
    """Blends each example with another of its batch, by one of the methods that are on.

    Args:
        batch: Images float32 (b, s, s, 3), labels float32 (b, classes), and perhaps weights
            float32 (b,); labels and weights are blended as the images are.
        seed: int32 (2,); it alone decides the blends.
        mixup: Alpha of MixUp's beta distribution; 0 is off.
        cutmix: Alpha of CutMix's beta distribution; 0 is off.
        maps: How many of the first tensors of the batch are images, or feature maps of them.

    Returns:
        The batch, in the same shapes.
    """
    choice, draw, box = tf.unstack(tf.random.split(seed, 3), num=3)
    methods = []
    if mixup > 0:
        methods.append(lambda: mix_up(batch, sample_beta(mixup, draw)))
    if cutmix > 0:
        methods.append(lambda: cut_mix(batch, sample_beta(cutmix, draw), box, maps))
    if not methods:
        return batch
    which = tf.random.stateless_uniform((), choice, 0, len(methods), tf.int32)
    return tf.switch_case(which, methods)


def mix_up(batch: Batch, share: tf.Tensor) -> Batch:
    """Blends each example with its neighbour: `share` of itself, the rest of the neighbour.

    Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization.
    """

    def blend(part: tf.Tensor) -> tf.Tensor:
        of_itself = tf.cast(share, part.dtype)
        return of_itself * part + (1 - of_itself) * tf.roll(part, 1, axis=0)

    return tuple(map(blend, batch))


def cut_mix(batch: Batch, share: tf.Tensor, seed: tf.Tensor, maps: int = 1) -> Batch:
    """Pastes a rectangle of each example's neighbour, of about 1 - `share` of the area.

    Labels are blended by the area that the rectangle really takes, once cut off at the border.
    Yun et al. 2019, CutMix: Regularization Strategy to Train Strong Classifiers.
    """
    half = tf.sqrt(1.0 - share) / 2.0
    centre = tf.random.stateless_uniform((2,), seed)

    def inside(images: tf.Tensor) -> tf.Tensor:
        size = tf.shape(images)[1:3]
        low, high = (
            tf.clip_by_value(tf.cast(tf.round(at * tf.cast(size, tf.float32)), tf.int32), 0, size)
            for at in (centre - half, centre + half)
        )
        rows, columns = tf.range(size[0]), tf.range(size[1])
        in_rows = (rows >= low[0]) & (rows < high[0])  # (s,)
        in_columns = (columns >= low[1]) & (columns < high[1])  # (s,)
        return (in_rows[:, tf.newaxis] & in_columns[tf.newaxis])[..., tf.newaxis]  # (s, s, 1)

    masks = [inside(images) for images in batch[:maps]]
    kept = 1.0 - tf.add_n([tf.reduce_mean(tf.cast(mask, tf.float32)) for mask in masks]) / maps
    pasted = [
        tf.where(mask, tf.roll(images, 1, axis=0), images)
        for mask, images in zip(masks, batch[:maps], strict=True)
    ]
    return (*pasted, *mix_up(batch[maps:], kept))


def sample_beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws from Beta(alpha, alpha): float32 scalar in 0..1."""
    first, second = tf.unstack(tf.random.stateless_gamma((2,), seed, alpha, dtype=tf.float32))
    return tf.math.divide_no_nan(first, first + second)
