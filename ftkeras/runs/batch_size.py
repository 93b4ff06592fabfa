"""Which batch size the memory would hold."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from ftkeras.data.feed import Feed
from ftkeras.memory import available_memory

_SHARE = 0.8  # of the free memory: the estimate is rough
_COPIES = 2  # of what the backward pass keeps: the outputs and their gradients
_ALIVE = 3  # the outputs of layers that exist at once in a forward pass: two inputs, a result


def batch_size_that_fits(
    batch_size: int, activation_bytes: int, largest_output: int, memory: int
) -> int:
    """Returns the largest power of two below `batch_size` that should fit; 0 if not even 1 does.

    Args:
        batch_size: The one that did not fit.
        activation_bytes: What its backward pass keeps, in bytes.
        largest_output: How many numbers the largest output of a layer has per example.
        memory: Bytes that are free.

    Example:
        >>> batch_size_that_fits(256, 256 << 20, 0, 100 << 20)  # 1 MiB per example, twice
        32
    """
    each = _bytes_of_each(batch_size, activation_bytes, largest_output)
    most = min(int(memory * _SHARE / max(each, 1)), batch_size - 1)
    return 1 << (most.bit_length() - 1) if most > 0 else 0


def advise(model: keras.Model, feed: Feed, activation_bytes: int) -> str:
    """Returns in words which batch size would fit into the memory that is free now."""
    batch_size, smaller = feed.batch_size, feed.input.smaller
    fits = batch_size_that_fits(
        batch_size, activation_bytes, _largest_output(model), available_memory()
    )
    if not fits:
        remedy = f": lower {smaller}." if smaller else "."
        return f"At data.batch_size={batch_size}, even 1 may not fit{remedy}"
    accumulate = -(-batch_size // fits)
    return (
        f"data.batch_size is {batch_size}; about {fits} would fit: --set data.batch_size={fits} "
        f"(and --set optimizer.accumulate={accumulate} for updates from as many examples)."
    )


def warn(model: keras.Model, feed: Feed, activation_bytes: int) -> str:
    """Returns a sentence if a batch will hardly fit into the free memory, otherwise "".

    On a CPU the warning must come first: the system kills a process that runs out, silently.
    """
    if tf.config.list_physical_devices("GPU"):
        return ""
    batch_size = feed.batch_size
    needed = _bytes_of_each(batch_size, activation_bytes, _largest_output(model)) * batch_size
    free = available_memory()
    if needed <= free:
        return ""
    advice = advise(model, feed, activation_bytes)
    return f"Training needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. {advice}"


def _bytes_of_each(batch_size: int, activation_bytes: int, largest_output: int) -> float:
    return _COPIES * activation_bytes / batch_size + _ALIVE * 4 * largest_output


def _largest_output(model: keras.Model) -> int:
    return max(
        math.prod(size or 1 for size in output.shape[1:])
        for operation in model.operations
        for output in keras.tree.flatten(operation.output)
    )
