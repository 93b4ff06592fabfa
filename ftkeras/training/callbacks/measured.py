"""Adds metrics of the whole validation split, which Keras lacks, to the logs of each epoch."""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.devices.workers import wait_for_all, worker_share
from ftkeras.model.inference import outputs_function
from ftkeras.phases.callback import Logs
from ftkeras.training.callbacks.averaging import AveragedWeights

Batches = Callable[[], tf.data.Dataset]
"""Returns the validation examples, whole and in order, each once: (inputs, ...) in batches."""


class MeasuredMetrics(keras.callbacks.Callback):
    """Predicts the validation split when an epoch ends, and adds metrics of it to the logs.

    Keras sums values per batch. But a macro-F1, an exact AUC or one class's recall needs all
    answers together. List this callback before those that read the logs. With several workers the
    first one predicts, and all of them log its results, because their decisions must agree.

    Args:
        fitted: The whole model, which `fit` trains.
        final: The model to measure; it shares the weights of `fitted`.
        batches: The validation examples as `final` takes them.
        names: The metrics.
        measure: From a model's outputs for all examples, (n, units) or a dict by output, to the
            metrics by name.
        average: If there is one, the averaged weights are measured, as in validation.
    """

    def __init__(
        self,
        fitted: keras.Model,
        final: keras.Model,
        batches: Batches,
        *,
        names: Sequence[str],
        measure: Callable[[Any], Mapping[str, float]],
        average: AveragedWeights | None = None,
    ):
        super().__init__()
        self.between: Callable[[], None] = lambda: None
        """Called after each batch; it may raise to stop the training."""
        self._fitted, self._final, self._plain = fitted, final, batches
        self._names, self._measure, self._average = list(names), measure, average
        self.before_fit(fitted, batches)

    def before_fit(self, fitted: keras.Model, batches: Batches | None) -> None:
        """Sets what the next `fit` trains.

        Args:
            fitted: The whole model or its tail.
            batches: The validation examples as `fitted` takes them. None if this process has only
                a part of them; the whole model then predicts them.
        """
        self._tail = None if fitted is self._fitted or batches is None else fitted
        # Made once per `fit`: its functions are traced, which takes as long as a short epoch.
        self._batches = functools.cache(batches or self._plain)
        self._answer: Callable[[Any], Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        strategy = self.model.distribute_strategy
        if logs is None:
            return
        values: Mapping[str, float] = dict.fromkeys(self._names, 0.0)
        if worker_share(strategy).index == 0:
            average = self._average
            with contextlib.nullcontext() if average is None else average.swapped():
                values = self._measure(self._outputs())
        for name in self._names:
            logs[name] = _of_the_first(values[name], strategy)

    def _outputs(self) -> Any:
        """Returns the model's outputs for all examples, float32 (n, units) or a dict."""
        batches, parts = self._batches(), []
        if self._answer is None:  # once per `fit`: tracing takes a second
            self._answer = (
                outputs_function(self._final)
                if self._tail is None
                else _tail_function(self._tail, batches.element_spec[0])
            )
        for inputs, *_ in batches:
            parts.append(tf.nest.map_structure(np.asarray, self._answer(inputs)))  # (b, units)
            self.between()
        return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def _tail_function(tail: keras.Model, spec: Any) -> Callable[[Any], Any]:
    """Returns the tail in inference mode as one graph, for batches of any size."""

    @tf.function
    def answered(inputs: Any) -> Any:
        outputs = tail(inputs, training=False)
        return tf.nest.map_structure(lambda output: tf.cast(output, tf.float32), outputs)

    # TensorFlow would warn of frequent tracing: a function is made for each of many phases.
    answer: Callable[[Any], Any] = answered.get_concrete_function(spec)
    return answer


def _of_the_first(value: float, strategy: tf.distribute.Strategy) -> float:
    """Returns the first worker's value to all workers, to the bit."""
    [number] = struct.unpack("<q", struct.pack("<d", value))
    [first] = struct.unpack("<d", struct.pack("<q", wait_for_all(strategy, number)[0]))
    return float(first)
