"""Keeps decoded examples in memory if they are few enough. It changes speed, never a number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.console import track
from ftkeras.data.dataset import Split
from ftkeras.inputs.base import Input, Tree, View
from ftkeras.memory import available_memory

_SAMPLES = 16  # examples decoded to estimate how large all are

Kept = Callable[[tf.Tensor], Any]
"""From an index, int64 scalar, to a decoded example."""


def keep_in_memory(split: Split, kind: Input, view: View, cache: str) -> Kept | None:
    """Decodes all examples of a split now, if that is asked for and there is room.

    Args:
        split: The examples.
        kind: Decodes them.
        view: Which versions of an example are going to be made of what is kept.
        cache: "memory", "auto" (if a quarter of the free memory is enough) or "none".

    Returns:
        What returns a decoded example by its index; None if nothing is kept.
    """
    if cache == "none":
        return None

    @tf.autograph.experimental.do_not_convert
    def decode(index: tf.Tensor) -> Tree:
        return kind.decode(split.fetch(index), view)

    indices = tf.data.Dataset.range(len(split))
    examples = indices.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    specs = tf.nest.flatten(examples.element_spec)
    if cache == "auto" and _needed(split, specs, decode) > available_memory() // 4:
        return None
    decoded = track(
        map(tf.nest.flatten, examples.as_numpy_iterator()),
        f"decode {split.name} into memory",
        kind.noun,
        kind.nouns,
        total=len(split),
    )
    if all(spec.shape.is_fully_defined() for spec in specs):
        parts = _from_stacks(decoded, len(split), specs)
    else:
        columns = zip(*decoded, strict=True)
        parts = [_from_buffer(part, spec) for part, spec in zip(columns, specs, strict=True)]
    structure = examples.element_spec
    return lambda index: tf.nest.pack_sequence_as(structure, [part(index) for part in parts])


def _from_stacks(
    decoded: Iterable[list[np.ndarray]], count: int, specs: list[tf.TensorSpec]
) -> list[Kept]:
    """Keeps tensors of one shape: filled in one by one, they are never in memory twice."""
    stacks = [np.empty((count, *spec.shape), spec.dtype.as_numpy_dtype) for spec in specs]
    for i, tensors in enumerate(decoded):
        for stack, tensor in zip(stacks, tensors, strict=True):
            stack[i] = tensor
    with tf.device("CPU:0"):
        kept = [tf.constant(stack) for stack in stacks]  # (n, ...)
    return [functools.partial(tf.gather, stack) for stack in kept]


def _from_buffer(decoded: Iterable[np.ndarray], spec: tf.TensorSpec) -> Kept:
    """Keeps tensors of any sizes, one after the other in one buffer."""
    arrays = list(decoded)
    sizes = np.array([array.size for array in arrays], np.int64)
    with tf.device("CPU:0"):
        shapes = tf.constant([array.shape for array in arrays], tf.int32)  # (n, rank)
        starts = tf.constant(np.cumsum(sizes) - sizes)  # (n,)
        lengths = tf.constant(sizes)  # (n,)
        buffer = tf.constant(np.concatenate([array.ravel() for array in arrays]))

    def kept(index: tf.Tensor) -> tf.Tensor:
        flat = tf.slice(buffer, starts[index, tf.newaxis], lengths[index, tf.newaxis])
        return tf.ensure_shape(tf.reshape(flat, shapes[index]), spec.shape)

    return kept


def _needed(split: Split, specs: list[tf.TensorSpec], decode: Callable[..., Tree]) -> int:
    """Bytes that the examples would take; from a sample if their sizes differ."""
    if all(spec.shape.is_fully_defined() for spec in specs):
        return len(split) * sum(s.shape.num_elements() * s.dtype.size for s in specs)
    sample = np.unique(np.linspace(0, len(split) - 1, _SAMPLES).astype(np.int64))
    sizes = [
        sum(
            int(tf.size(part)) * part.dtype.size for part in tf.nest.flatten(decode(tf.constant(i)))
        )
        for i in sample
    ]
    return int(np.mean(sizes) * len(split))
