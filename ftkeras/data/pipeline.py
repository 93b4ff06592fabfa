"""From a split to batches: one function, from top to bottom.

Everything random follows from (seed, epoch, position), so a run that is stopped and goes on sees
the images it would have seen. `epoch`, `start` and `strength` may be variables: they are read when
iteration begins, so that one data set serves all epochs of one `fit`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.data.order import endless, make_weight, order_of
from ftkeras.data.preload import keep_in_memory
from ftkeras.data.share import WHOLE, Share, as_long_as, pad, take_share, with_rows
from ftkeras.inputs.image.augment import STRENGTHS, Augment, Strength, augment_image
from ftkeras.inputs.image.decode import Crop, all_of, random_part, resize_image
from ftkeras.inputs.image.mix import mix_batch

Number: TypeAlias = "int | tf.Variable"

_PIXELS, _MIX = 1, 2  # kinds of draws, so that they share no seed


def batches(
    split: Split,
    *,
    image_size: int,
    batch_size: int,
    resize: str = "crop",
    training: bool = False,
    shuffle: bool = True,
    seed: int = 0,
    epoch: Number = 0,
    start: Number = 0,
    strength: str | tf.Variable = "none",
    layers: Augment | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    balance: str = "none",
    cache: str = "auto",
    drop_remainder: bool = False,
    share: Share = WHOLE,
    length: int | None = None,
) -> tf.data.Dataset:
    """Makes the data set that `fit`, `evaluate` and `predict` iterate over.

    Args:
        split: The examples.
        image_size: Side of the images, in pixels.
        batch_size: Examples a batch, over all devices.
        resize: "crop", "pad" or "squash"; see `decode.resize_image`.
        training: Whether to shuffle, augment, mix and balance; else all examples come once, in
            order, and whole.
        shuffle: Whether training takes the examples in a random order; without it, in their own.
        seed: Decides all that is random, together with `epoch` and an example's position.
        epoch: Which pass over the data this is.
        start: How many examples of the epoch to leave out, because they were already trained on.
        strength: A name of `augment.STRENGTHS`, or an int variable with its index there.
        layers: Augments instead of a strength; see `augment_layers.layers_augment`.
        mixup: Alpha of MixUp; 0 is off.
        cutmix: Alpha of CutMix; 0 is off.
        balance: "none", "class_weights" (weights yielded with the batch) or "sampling".
        cache: "memory" keeps images decoded in memory, "auto" does where they take a quarter of
            what is free or less, "none" does not.
        drop_remainder: Whether to leave out the last batch where it is not full.
        share: Which part of each batch is wanted, and for how many replicas batches are padded. If
            it can be, nothing else is read.
        length: How many examples an epoch takes, going on where the one before ended; None is all.

    Returns:
        Batches (images float32 (b, s, s, 3) 0..255, labels float32 (b, classes)), with weights
        float32 (b,) as a third element if the split has weights or `balance` makes them. For
        several replicas the third element is always there, and is `Rows`.
    """
    count = len(split) if length is None else length
    weigh = make_weight(split, balance if training else "none")
    names = list(STRENGTHS) if isinstance(strength, tf.Variable) else [strength]
    # A random crop needs the whole image; without one the resized image is always the same.
    crops = training and layers is None and any(STRENGTHS[name].scale < 1 for name in names)
    rows = [STRENGTHS[name] for name in names]
    # What a crop leaves must still be as large as the model's input.
    least = max(_least(row, image_size) for row in rows) if crops else image_size
    fetch, is_square = keep_in_memory(split, cache, None if crops else (image_size, resize), least)
    shuffle = shuffle and training
    order = order_of(split, balance, seed)
    if length is not None:
        order = endless(order, len(split), length)
    target = split.make_target()

    def squared(image: tf.Tensor) -> tf.Tensor:
        return tf.cast(image, tf.float32) if is_square else resize_image(image, image_size, resize)

    def read(index: tf.Tensor) -> tf.Tensor:
        return fetch(index, least)  # decoded: (h, w, 3) uint8

    def augmented(index: tf.Tensor, key: tf.Tensor, which: tf.Tensor) -> tf.Tensor:
        if layers is not None:
            return layers(squared(read(index)), key)
        crop_key, other_key = tf.unstack(tf.random.split(key), num=2)
        image = fetch(index, least, _crop_for(rows, which, crop_key)) if crops else read(index)

        def change(row: Strength) -> tf.Tensor:
            is_part = row.scale < 1
            view = resize_image(image, image_size, "squash") if is_part else squared(image)
            return augment_image(view, other_key, row)

        return _for_row(rows, which, change)

    mixes = training and bool(mixup or cutmix)
    early = share.count > 1 and not mixes  # only what is mixed needs whole batches

    @tf.autograph.experimental.do_not_convert
    def example(place: Any, now: tf.Tensor, which: tf.Tensor) -> tuple[Any, ...]:
        position, *row = place if early else (place,)
        index = order(position, now) if shuffle else position
        if training:
            image = augmented(index, _key(seed, _PIXELS, now, position), which)
        else:
            image = squared(read(index))
        image = tf.ensure_shape(image, (image_size, image_size, 3))
        weight = () if weigh is None else (weigh(index),)
        return position, now, (image, target(index), *weight), tuple(row)

    @tf.autograph.experimental.do_not_convert
    def finished(positions: tf.Tensor, nows: tf.Tensor, batch: Any, rows: Any) -> tuple[Any, ...]:
        if early:
            return with_rows(batch, *rows)
        if mixes:
            return mix_batch(batch, mixing_key(seed, nows[0], positions[0]), mixup, cutmix)
        return tuple(batch)

    in_share = functools.partial(_own_places, share, batch_size, drop_remainder) if early else None
    data = _positions(count, epoch, start, strength, in_share)
    # Many images at a time, handed on in order: parallelism must not change what comes out.
    data = data.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    size = -(-batch_size // share.replicas) * share.replicas // share.count if early else batch_size
    data = data.batch(size, drop_remainder=drop_remainder)
    data = data.map(finished, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    data = data.prefetch(2)  # two batches wait while the model works on one
    data = with_length(data, count, start, batch_size, drop_remainder)
    return data if early else take_share(data, share)


def _positions(
    count: int,
    epoch: Number,
    start: Number,
    strength: str | tf.Variable,
    in_share: Callable[[tf.data.Dataset], tf.data.Dataset] | None,
) -> tf.data.Dataset:
    """Yields (place, epoch, strength) for each example of an epoch, in the order of places.

    Args:
        count: How many examples an epoch has.
        epoch: Which one this is.
        start: The first place.
        strength: How strongly to augment; a name is 0.
        in_share: From all places to one worker's; None: all are yielded.
    """

    @tf.autograph.experimental.do_not_convert
    def positions(_: tf.Tensor) -> tf.data.Dataset:
        # Variables are read here, when an epoch begins: all that is prefetched is of one epoch.
        now, which = _read(epoch, tf.int64), _read(strength, tf.int32)
        first = _read(start, tf.int64)
        dataset = tf.data.Dataset.range(first, count)
        if in_share is not None:
            dataset = in_share(dataset)
        return tf.data.Dataset.zip((dataset, repeated(now), repeated(which)))

    return tf.data.Dataset.from_tensors(0).flat_map(positions)


def repeated(value: tf.Tensor) -> tf.data.Dataset:
    """Yields a tensor without end, to be zipped with what varies.

    A `map` that adds it would do the same, but when an epoch begins TensorFlow makes each function
    ready anew, and one within another takes it 20 ms.
    """
    return tf.data.Dataset.from_tensors(value).repeat()


def _own_places(
    share: Share, batch_size: int, drop_remainder: bool, places: tf.data.Dataset
) -> tf.data.Dataset:
    """Returns (place, real, examples) of one worker's rows: see `pad`."""
    whole = places.batch(batch_size, drop_remainder=drop_remainder)
    return whole.map(lambda batch: share.of(pad(batch, share.replicas))).unbatch()


def _for_row(rows: Sequence[Strength], which: tf.Tensor, do: Callable[[Strength], Any]) -> Any:
    """Does something by the row that a tensor names."""
    if len(rows) == 1:
        return do(rows[0])
    return tf.switch_case(which, [lambda row=row: do(row) for row in rows])


def _crop_for(rows: Sequence[Strength], which: tf.Tensor, key: tf.Tensor) -> Crop:
    """Returns which part of an image the strength takes that a tensor names."""

    def of_row(row: Strength) -> Crop:
        if row.scale < 1:
            return random_part(key, (row.scale, 1.0), (1 / row.ratio, row.ratio))
        return all_of

    return lambda shape: _for_row(rows, which, lambda row: of_row(row)(shape))


def _least(strength: Strength, image_size: int) -> int:
    """The shorter side that an image needs so that its smallest random crop loses nothing."""
    return math.ceil(image_size * math.sqrt(strength.ratio / strength.scale))


def _read(value: Number | str, dtype: tf.DType) -> tf.Tensor:
    # A cast may hand a variable on as it is, to be read again with each example.
    return tf.identity(tf.cast(0 if isinstance(value, str) else value, dtype))


def _key(seed: int, kind: int, epoch: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """The seed of all draws of one kind for one place in one epoch: int32 (2,)."""
    return tf.random.fold_in(tf.random.fold_in((seed, kind), epoch), position)


def mixing_key(seed: int, epoch: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """The seed of what is mixed in the batch that begins at a place in an epoch: int32 (2,)."""
    return _key(seed, _MIX, epoch, position)


def with_length(
    data: tf.data.Dataset, count: int, start: Number, batch_size: int, drop_remainder: bool
) -> tf.data.Dataset:
    """Tells `fit` how many batches an epoch has, which a flat_map hides."""
    if isinstance(start, tf.Variable):
        # An asserted length may not be undercut, and the first epoch of a resumed run must be
        # shorter. Without a length `fit` would cut all epochs to that of the first.
        length = count // batch_size if drop_remainder else -(-count // batch_size)
        return as_long_as(data, length)
    left = count - start
    length = left // batch_size if drop_remainder else -(-left // batch_size)
    return data.apply(tf.data.experimental.assert_cardinality(length))
