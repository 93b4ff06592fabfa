"""Which batch size the memory would hold."""

from __future__ import annotations

import tensorflow as tf

from ftkeras.data.feed import Feed
from ftkeras.memory import available_memory
from ftkeras.phases import Plan

_SHARE = 0.5  # of the free memory: tracing takes some, and TensorFlow more for a moment
_WORTH = 0.8  # of the activations, below which gradient checkpointing is advised


def batch_size_that_fits(batch_size: int, each: float, memory: float) -> int:
    """Returns the largest power of two below `batch_size` that should fit; 0 if not even 1 does.

    Args:
        batch_size: The one that did not fit.
        each: Bytes that an example takes.
        memory: Bytes that are free for all of them.

    Example:
        >>> batch_size_that_fits(256, 1 << 20, 100 << 20)
        32
    """
    most = min(int(memory * _SHARE / max(each, 1)), batch_size - 1)
    return 1 << (most.bit_length() - 1) if most > 0 else 0


def advise(plan: Plan, feed: Feed) -> str:
    """Returns in words which batch size would fit into the memory that is free now."""
    batch_size, smaller, largest = feed.batch_size, feed.input.smaller, plan.largest
    each = (largest.activation_bytes + largest.passing_bytes) / plan.batch_size
    fits = batch_size_that_fits(batch_size, each, available_memory() - largest.gradient_bytes)
    again = ""
    if largest.checkpointed_bytes < _WORTH * largest.activation_bytes:
        again = (
            " Or --set training.gradient_checkpointing=true: a batch then takes about "
            f"{(largest.checkpointed_bytes + largest.passing_bytes) / 1e9:.1f} GB."
        )
    if not fits:
        remedy = f": lower {smaller}." if smaller else "."
        return f"At data.batch_size={batch_size}, even 1 may not fit{remedy}{again}"
    accumulate = -(-batch_size // fits)
    return (
        f"data.batch_size is {batch_size}; about {fits} would fit: --set data.batch_size={fits} "
        f"(and --set optimizer.accumulate={accumulate} for updates from as many examples).{again}"
    )


def warn(plan: Plan, feed: Feed) -> str:
    """Returns a sentence if a batch will hardly fit into the free memory, otherwise "".

    On a CPU the warning must come first: the system kills a process that runs out, silently.
    """
    if tf.config.list_physical_devices("GPU"):
        return ""
    needed, free = plan.largest.step_bytes, available_memory()
    if needed <= free:
        return ""
    return (
        f"Training needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. "
        f"{advise(plan, feed)}"
    )
