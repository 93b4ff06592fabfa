"""Shares of global batches: how several replicas divide them, and what one worker reads of each.

Replicas compute what one device would under two conditions: all have the same number of rows, and
the loss of a row counts as much as on one device. So a batch whose examples they cannot share
evenly is padded with examples that it has already. These weigh nothing, and the others weigh more
in return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf


class Rows(NamedTuple):
    """What the rows of a padded batch count for; it stands in the place of the weights.

    Args:
        weights: Each row's weight in a loss that is a mean over rows, float32 (b,), or a dict of
            them by head: 0 for padding. The mean over the padded batch, over all replicas, is the
            mean over its examples.
        real: 1 for an example, 0 for padding, float32 (b,).
        examples: How many examples of the global batch a row stands for, float32 (b,). The sum is
            the same on all replicas; over all of them it is the number of examples.
    """

    weights: Any
    real: tf.Tensor
    examples: tf.Tensor


@dataclass(frozen=True)
class Share:
    """One worker's part of every batch; the parts of all workers together are the batch.

    Args:
        index: Which worker.
        count: How many there are.
        replicas: How many replicas all workers have; batches are padded for them if it is above 1.
    """

    index: int = 0
    count: int = 1
    replicas: int = 1

    def __post_init__(self) -> None:
        if self.replicas % self.count:
            raise ValueError(f"{self.replicas} replicas cannot be those of {self.count} workers")

    def bounds(self, size: Any) -> tuple[Any, Any]:
        """Returns where the part of a batch of `size` examples begins and ends.

        Example:
            >>> [Share(i, 3).bounds(8) for i in range(3)]
            [(0, 2), (2, 5), (5, 8)]
        """
        return self.index * size // self.count, (self.index + 1) * size // self.count

    def of(self, tensors: Any) -> Any:
        """Returns this part of tensors (b, ...) in any structure; it may be empty."""
        if self.count == 1:
            return tensors
        first = tf.nest.flatten(tensors)[0]
        size = tf.shape(first)[0] if first.shape[0] is None else first.shape[0]
        start, end = self.bounds(size)
        return tf.nest.map_structure(lambda tensor: tensor[start:end], tensors)

    def stored(self, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the examples of a global batch (b,) that this worker has, as `pad` does.

        A worker that has stored every `count`-th example from `index` on takes those, and never
        none: the number of a batch's rows differs from worker to worker.
        """
        own = tf.boolean_mask(indices, indices % self.count == self.index)
        real = tf.size(own)
        examples = tf.size(indices) / self.count  # of equally many, whatever is stored
        some = tf.concat([own, [self.index]], axis=0)[: tf.maximum(real, 1)]
        rows: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
        rows = pad(some, self.replicas // self.count, real, examples)
        return rows


WHOLE = Share()


def pad(
    tensors: Any, multiple: int, real: Any = None, examples: Any = None
) -> tuple[Any, tf.Tensor, tf.Tensor]:
    """Repeats rows until their number is a multiple of that of replicas.

    Args:
        tensors: Tensors (b, ...) in any structure.
        multiple: How many replicas share them.
        real: How many of the first rows are examples; left out, all are.
        examples: How many examples of the global batch the rows stand for; left out, their own.

    Returns:
        The padded tensors, and the `real` and `examples` of their rows: see `Rows`.

    Example:
        >>> rows, real, examples = pad(tf.constant([7, 8, 9]), 2)
        >>> rows.numpy(), real.numpy(), examples.numpy()
        (array([7, 8, 9, 7], dtype=int32), array([1., 1., 1., 0.], dtype=float32),
         array([0.75, 0.75, 0.75, 0.75], dtype=float32))
    """
    first = tf.nest.flatten(tensors)[0]
    count = tf.shape(first)[0] if first.shape[0] is None else first.shape[0]
    real, total = count if real is None else real, -(-count // multiple) * multiple
    places = tf.range(total)
    if not (isinstance(count, int) and count == total):  # if it is known that nothing is missing
        tensors = tf.nest.map_structure(lambda part: tf.gather(part, places % count), tensors)
    each = tf.cast(real if examples is None else examples, tf.float32) / tf.cast(total, tf.float32)
    return tensors, tf.cast(places < real, tf.float32), tf.fill([total], each)


def with_rows(
    batch: tuple[Any, ...], real: tf.Tensor, examples: tf.Tensor
) -> tuple[Any, Any, Rows]:
    """Returns a padded batch (inputs, labels[, weights]) with `Rows` in place of the weights."""
    inputs, labels, *weights = batch
    scale = real / examples
    own = weights[0] if weights else tf.ones_like(scale)
    scaled = tf.nest.map_structure(lambda each: tf.cast(each, tf.float32) * scale, own)
    return inputs, labels, Rows(scaled, real, examples)


def take_share(batches: tf.data.Dataset, share: Share) -> tf.data.Dataset:
    """Returns this part of every batch, padded for the replicas, and as many batches."""
    if share.replicas == 1:
        return batches

    def part(*batch: Any) -> tuple[Any, Any, Rows]:
        return share.of(with_rows(*pad(batch, share.replicas)))

    taken = batches.map(part, num_parallel_calls=tf.data.AUTOTUNE)
    return as_long_as(taken, int(batches.cardinality()))


def untuned(data: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the data without tf.data's tuning: one call per core is as fast.

    TensorFlow (2.21) frees an iterator only when its tuning thread wakes. That may take a minute if
    other iterators are alive: five finished ones were freed in 130 s.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def as_long_as(data: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Tells `fit` a length that is not asserted: a resumed epoch may have less."""
    data.cardinality = lambda: tf.constant(length, tf.int64)
    return data
