"""Several training steps in one call of a function, if no callback needs each step.

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

_TOGETHER = 16  # steps: enough to make Python's part small, few enough for a prompt Ctrl-C
_SHORT = 2e8  # the work of a step in the unit of `trunk.cost`: some milliseconds of two cores

_COUNT_RIGHT = (ResumableUnfreezing, DivergenceWatch, FitProgress, FitStages, EpochBoard, Saver)
_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


def steps_together(
    model: keras.Model,
    work: float,
    callbacks: Sequence[keras.callbacks.Callback],
    every_steps: int | None = None,
) -> int:
    """Returns the number of steps per call, the same for the same training on any machine.

    It is more than one only if all of these hold. Steps are short. There is one device (TensorFlow
    failed with several replicas on a CPU: a placeholder wasn't fed). No callback listens to each
    step. No state has to be saved at a certain step. There is no loss scaling, which may skip a
    step: the rates would still count it.

    Args:
        model: The compiled model. If it has several steps per call already, that is kept.
        work: The work of a training step, in the unit of `trunk.cost.work`.
        callbacks: All callbacks of the training.
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
    """In this block the model's functions, if traced, run so many steps per call."""
    before = model.steps_per_execution
    model.steps_per_execution = steps
    try:
        yield
    finally:
        model.steps_per_execution = before
