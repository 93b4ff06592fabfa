"""Shares of global batches: which examples of each one worker reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Share:
    """One worker's part of every batch; the parts of all workers together are the batch.

    Args:
        index: Which worker.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    def bounds(self, size: Any) -> tuple[Any, Any]:
        """Returns where the part of a batch of `size` examples begins and ends.

        Example:
            >>> [Share(i, 3).bounds(8) for i in range(3)]
            [(0, 2), (2, 5), (5, 8)]
        """
        return self.index * size // self.count, (self.index + 1) * size // self.count

    def of(self, tensors: Any) -> Any:
        """Returns this part of tensors (b, ...) in any structure; it may be empty."""
        start, end = self.bounds(tf.shape(tf.nest.flatten(tensors)[0])[0])
        return tf.nest.map_structure(lambda tensor: tensor[start:end], tensors)


WHOLE = Share()


def take_share(batches: tf.data.Dataset, share: Share) -> tf.data.Dataset:
    """Returns this part of every batch, and as many batches: the last part may be empty."""
    if share.count == 1:
        return batches
    taken = batches.map(lambda *batch: share.of(batch), num_parallel_calls=tf.data.AUTOTUNE)
    return as_long_as(taken, int(batches.cardinality()))


def as_long_as(data: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Tells `fit` a length that is not asserted: a resumed epoch or a share may have less."""
    data.cardinality = lambda: tf.constant(length, tf.int64)
    return data
