"""Finds the example that cannot be read any more: TensorFlow's errors seldom name it."""

from __future__ import annotations

import time
from collections.abc import Callable

import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.inputs.base import PLAIN, Input, Tree

_SECONDS = 60.0  # after which the search gives up


def find_broken(
    split: Split,
    kind: Input,
    first: int = 0,
    order: Callable[[tf.Tensor], tf.Tensor] = lambda position: position,
) -> tuple[str, Exception] | None:
    """Reads the examples of a split until one fails; returns its id and the error.

    Args:
        split: The examples.
        kind: Decodes them.
        first: The place to begin at; those before it come last.
        order: From a place to an index, int64 scalars; by default the split's own order.
    """
    count = len(split)

    @tf.autograph.experimental.do_not_convert
    def decoded(position: tf.Tensor) -> Tree:
        # All of it: of its size alone, which may be known, TensorFlow would decode nothing.
        return kind.decode(split.fetch(order(position % count)), PLAIN)

    examples = tf.data.Dataset.range(first, first + count).map(
        decoded,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,  # so that as many came as lie before the one that fails
    )
    until, read = time.monotonic() + _SECONDS, 0
    try:
        for _ in examples:
            read += 1
            if time.monotonic() > until:
                break
    except tf.errors.OpError as error:
        index = order(tf.constant((first + read) % count, tf.int64))
        return split.ids[int(index)], error
    return None
