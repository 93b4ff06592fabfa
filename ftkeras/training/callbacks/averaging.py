"""Exponential moving averages of weights, right when weights begin to train one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.keras_internals import variables_inside
from ftkeras.phases.callback import Logs
from ftkeras.phases.install import phased, template_of


@dataclass(frozen=True)
class _Average:
    """One variable's average, and the update after which it began."""

    path: str
    variable: keras.Variable
    value: tf.Variable
    since: int


class AveragedWeights(keras.callbacks.Callback):
    """Averages a model's weights while it trains; the averages usually generalise better.

    Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging". After update
    t (from 0) since a weight began to train, `average += (1 - d) * (weight - average)` with
    `d = min(decay, (1 + t) / (10 + t))`, so that the start is soon forgotten. Validation measures
    the averaged model. The average of a weight that has not trained yet is its value. Keras's own
    `use_ema` zips averages and weights by position, which is wrong when weights are unfrozen. The
    statistics of batch normalisation are averaged if they move.

    An update is the optimizer's: with gradient accumulation, one in so many steps. With
    `steps_per_execution` there is one per execution. Give this to `fit` after `StagedUnfreezing`,
    which decides what trains.

    Args:
        model: The model, built; a `fit` of another model that shares its variables counts too.
        decay: From 0 to below 1; 0.999 averages over about the last 1,000 updates.

    Raises:
        UserError: `decay` is out of range.

    Example:
        ```python
        ema = AveragedWeights(model, decay=0.999)
        model.fit(inputs, labels, callbacks=[unfreeze, ema])
        with ema.swapped():
            model.save("averaged.keras")
        ```
    """

    def __init__(self, model: keras.Model, decay: float = 0.999):
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"average: the decay is from 0 to below 1, got {decay}.")
        self.decay = decay
        self._averaged = model
        self._strategy = model.distribute_strategy
        self._averages: dict[int, _Average] = {}  # by id of the variable
        self._updates = 0
        self._in_model = False  # whether the averages and the weights have changed places
        self._seen: Any = None  # the train function whose weights have averages
        self._every = self._micro_steps = 1
        with self._strategy.scope():
            self._counter = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self._make_functions()

    # ------------------------------------------------------------------------ the callback

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._every = template_of(self.model.optimizer).gradient_accumulation_steps or 1
        # Without phases the batches of an unfinished update are not known in public.
        optimizer = phased(self.model.optimizer)
        done = 0 if optimizer is None else optimizer.micro_steps
        self._micro_steps = int(keras.ops.convert_to_numpy(done))
        self._seen = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.unswap()  # after a validation that broke off

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        # Other weights train only if the train function was made again, also within an epoch.
        if self.model.train_function is not self._seen:
            self._seen = self.model.train_function
            moving = {id(v): (path, v) for path, v, moves in _variables(self._averaged) if moves}
            new = [at for key, at in moving.items() if key not in self._averages]
            for path, variable in new:
                self._make(path, variable, self._updates)
            if new:
                self._make_functions()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._micro_steps += 1
        if self._micro_steps % self._every == 0:
            self._updates += 1
            self._update()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self.swap()

    def on_test_end(self, logs: Logs | None = None) -> None:
        self.unswap()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.unswap()

    # -------------------------------------------------------------- the averages in the model

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it the model has the averaged weights; the weights come back bit for bit."""
        already = self._in_model
        self.swap()
        try:
            yield
        finally:
            if not already:
                self.unswap()

    def swap(self) -> None:
        """Puts the averages into the model, if they are not there."""
        if not self._in_model:
            self._exchange()
            self._in_model = True

    def unswap(self) -> None:
        """Puts the weights back, if the averages are in the model: also after an interruption."""
        if self._in_model:
            self._exchange()
            self._in_model = False

    # ------------------------------------------------------------------------------- resuming

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that a resumed run needs, ready for `np.savez`.

        Keys: `updates`, and for each averaged variable `average/PATH` and `since/PATH`.
        """
        swapped = self._in_model
        self.unswap()
        averages = {f"average/{a.path}": a.value.numpy() for a in self._averages.values()}
        if swapped:
            self.swap()
        since = {f"since/{a.path}": np.int64(a.since) for a in self._averages.values()}
        return {"updates": np.asarray(self._updates), **averages, **since}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resumes from what `state` returned.

        Raises:
            UserError: The state is of another model.
        """
        at = {path: variable for path, variable, _ in _variables(self._averaged)}
        kept = {key.partition("/")[2]: v for key, v in state.items() if key.startswith("average/")}
        for path, value in kept.items():
            if path not in at or tuple(at[path].shape) != value.shape:
                raise UserError(
                    f"average: the state has {path!r} {value.shape}; the model does not."
                )
        self.unswap()  # before the averages go: the model's weights may be among them
        self._updates = int(state["updates"])
        self._counter.assign(self._updates)
        self._averages = {}
        for path, value in kept.items():
            average = self._make(path, at[path], int(state[f"since/{path}"]))
            average.value.assign(value)
        self._make_functions()

    # ------------------------------------------------------------------------------- inside

    def _make(self, path: str, variable: keras.Variable, since: int) -> _Average:
        with self._strategy.scope():  # one copy per device, like the variable's
            start = keras.ops.convert_to_tensor(variable)
            value = tf.Variable(start, trainable=False, name="average")
        average = _Average(path, variable, value, since)
        self._averages[id(variable)] = average
        return average

    def _make_functions(self) -> None:
        """Makes one graph of each operation for all averages, so that a call costs one dispatch."""
        averages = tuple(self._averages.values())

        def update() -> None:
            updates = tf.cast(self._counter.assign_add(1), tf.float32)
            for since in sorted({average.since for average in averages}):
                age = updates - since  # t + 1
                share = 1.0 - tf.minimum(self.decay, age / (9.0 + age))
                for average in averages:
                    if average.since == since:
                        self._on_each_device(average, _move, share)

        def exchange() -> None:
            for average in averages:
                self._on_each_device(average, _exchange)

        self._update, self._exchange = map(tf.function, (update, exchange))

    def _on_each_device(self, average: _Average, function: Any, *more: Any) -> None:
        arguments = (average.variable.value, *more)
        self._strategy.extended.update(average.value, function, arguments)


def _move(average: tf.Variable, variable: tf.Variable, share: tf.Tensor) -> None:
    average.assign_add(tf.cast(share, average.dtype) * (variable - average))


def _exchange(average: tf.Variable, variable: tf.Variable) -> None:
    before = tf.identity(variable)
    variable.assign(average)
    average.assign(before)


def _variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable, bool]]:
    """Yields (path, variable, whether it moves in training now) of all that holds real numbers."""
    trained = {id(variable) for variable in model.trainable_variables}
    for path, variable, layer, trains in variables_inside(model):
        if trains:
            yield path, variable, id(variable) in trained
        elif keras.backend.is_float_dtype(variable.dtype):
            yield path, variable, layer.trainable
