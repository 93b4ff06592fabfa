"""Several training steps in one call of a function, where nobody needs to look in between.

A step of a small head takes less time than Python needs between two of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras

from ftkeras.training.callbacks.divergence import DivergenceWatch
from ftkeras.training.callbacks.record import EpochBoard, FitProgress
from ftkeras.training.callbacks.stages import FitStages
from ftkeras.training.resume.phases import ResumableUnfreezing
from ftkeras.training.resume.saving import Saver

_TOGETHER = 16  # steps: by then Python's part is small, and Ctrl-C still answers at once
_SHORT = 2e8  # the work of a step, as `trunk.cost` counts it: some milliseconds of two cores

_COUNT_RIGHT = (ResumableUnfreezing, DivergenceWatch, FitProgress, FitStages, EpochBoard, Saver)
_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


def steps_together(
    model: keras.Model,
    work: float,
    callbacks: Sequence[keras.callbacks.Callback],
    every_steps: int | None = None,
) -> int:
    """Returns how many steps to do at a call, the same for the same training on any machine.

    More than one only where steps are short, on one device (with several replicas on a CPU,
    TensorFlow was seen to fail: a placeholder wasn't fed), where no callback listens to each step
    and no state has to be saved at a certain one. Nor with loss scaling, which may skip a step: the
    rates would count on without it.

    Args:
        model: The compiled model. Where it does several steps at a call already, that stays.
        work: Of a training step, as `trunk.cost.work` counts it for an example.
        callbacks: All that training will call.
        every_steps: After how many steps a state is saved.
    """
    if model.steps_per_execution > 1:
        return model.steps_per_execution
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    several = model.distribute_strategy.num_replicas_in_sync > 1
    if work > _SHORT or scaled or several or model.run_eagerly or every_steps:
        return 1
    return 1 if any(map(_hears_each_step, callbacks)) else _TOGETHER


def _hears_each_step(callback: keras.callbacks.Callback) -> bool:
    if isinstance(callback, _COUNT_RIGHT):
        return False
    own = (getattr(getattr(callback, hook), "__func__", None) for hook in _HOOKS)
    plain = (getattr(keras.callbacks.Callback, hook) for hook in _HOOKS)
    return any(a is not b for a, b in zip(own, plain, strict=True))


@contextlib.contextmanager
def doing_together(model: keras.Model, steps: int) -> Iterator[None]:
    """Within this block the model's functions, where they are traced, do so many steps a call."""
    before = model.steps_per_execution
    model.steps_per_execution = steps
    try:
        yield
    finally:
        model.steps_per_execution = before
