"""Variations of a text in training: words are left out, and neighbours are swapped.

From Wei and Zou 2019, "EDA"; these two of its changes need no dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def vary(
    ids: tf.Tensor, key: tf.Tensor, *, drop: float, swap: float, special: Sequence[int] = ()
) -> tf.Tensor:
    """Returns tokens, some left out and some pairs swapped.

    Args:
        ids: int32 (t,).
        key: int32 (2,); it alone decides the changes.
        drop: The share of tokens to leave out; at least one stays.
        swap: The share of neighbouring pairs to swap.
        special: Tokens that are neither left out nor moved.

    Returns:
        int32 (u,), u <= t.
    """
    swap_key, drop_key = tf.unstack(tf.random.split(key), num=2)
    if swap:
        ids = _swapped(ids, swap_key, swap, special)
    if drop:
        drawn = tf.random.stateless_uniform(tf.shape(ids), drop_key)
        # The one with the largest draw always stays.
        keep = (drawn >= drop) | (drawn == tf.reduce_max(drawn)) | _is_any(ids, special)
        ids = tf.boolean_mask(ids, keep)
    return ids


def _is_any(ids: tf.Tensor, special: Sequence[int]) -> tf.Tensor:
    return tf.reduce_any(ids[:, tf.newaxis] == tf.constant(special, ids.dtype, [len(special)]), 1)


def _swapped(ids: tf.Tensor, key: tf.Tensor, share: float, special: Sequence[int]) -> tf.Tensor:
    """Swaps pairs that do not overlap: those that begin at even indices, or at odd ones."""
    which, offset_key = tf.unstack(tf.random.split(key), num=2)
    count = tf.size(ids)
    offset = tf.random.stateless_uniform((), offset_key, 0, 2, tf.int32)
    places = tf.range(count)
    pair = (places + offset) // 2
    other = pair * 4 - 2 * offset + 1 - places  # the sum of a pair's places is odd
    # Only half of all neighbours are pairs, so each is swapped with twice the probability.
    drawn = tf.gather(tf.random.stateless_uniform((count // 2 + 1,), which), pair)
    is_pair = (other >= 0) & (other < count)
    there = tf.where(is_pair & (drawn < 2 * share), other, places)
    stays = _is_any(ids, special)
    return tf.gather(ids, tf.where(stays | tf.gather(stays, there), places, there))
