"""Why a run failed, in one line, with what the run's parts add to the error."""

from __future__ import annotations

import keras

from ftkeras import system_errors
from ftkeras.data.feed import Feed
from ftkeras.run import Run
from ftkeras.runs import batch_size


def describe_failure(
    error: Exception, run: Run, feed: Feed, model: keras.Model, activation_bytes: int
) -> str:
    """Returns in one line what stopped a run; the traceback goes to its error.txt.

    Args:
        error: The exception.
        run: The run.
        feed: Its data, which are read again to find the example that cannot be read.
        model: Its compiled model.
        activation_bytes: What the backward pass of one batch keeps at most, for the batch size
            that would fit.
    """

    def write(text: str) -> str:
        run.write_text("error.txt", text)
        return run.path("error.txt")

    def find_broken() -> str:
        broken = feed.find_broken(int(model.optimizer.iterations))
        if broken is None:
            return ""
        return (
            f"data: {broken[0]} cannot be read any more ({system_errors.reason(broken[1])}). "
            "What was trained is kept. Fix or remove it, and train again."
        )

    return system_errors.describe(
        error,
        write=write,
        find_broken=find_broken,
        find_batch_size=lambda: batch_size.advise(model, feed, activation_bytes),
    )
