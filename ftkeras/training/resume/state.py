"""All that a training resumes from: taken between two steps, put back into new objects."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.keras_internals import (
    drawn_global_seeds,
    global_seeds,
    symbolic_build,
)
from ftkeras.state_file import Tree

VERSION = 2


class Stateful(Protocol):
    """What has something to remember: a callback, usually."""

    def state(self) -> Tree:
        """Returns it as plain values and arrays."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `state` returned."""


def take(model: keras.Model, fitted: keras.Model, parts: Mapping[str, Stateful]) -> Tree:
    """Returns all that a training resumes from.

    Variables are listed in Keras's order, which follows from how the model was built. Their names
    are counted over the whole process, and may differ in the next.

    Args:
        model: The whole model. `variables` has weights, statistics and states of seed generators;
            the optimizer's has step counts, momenta, accumulated gradients and the loss's scale.
        fitted: The model whose `fit` runs, and which has the metrics: `model` or its tail.
        parts: Other objects with a state, by name.
    """
    return {
        "version": VERSION,
        "model": values_of(model.variables),
        "optimizer": values_of(model.optimizer.variables),
        "metrics": values_of(fitted.metrics_variables),
        "random": _random_state(),
        "parts": {name: part.state() for name, part in parts.items()},
    }


def put_back(model: keras.Model, parts: Mapping[str, Stateful], tree: Tree) -> None:
    """Gives the model and the parts what `take` found; metrics are the business of `put_metrics`.

    Raises:
        UserError: It was taken from another model.
    """
    if tree["version"] != VERSION or set(tree["parts"]) != set(parts):
        raise UserError("the checkpoint was written by another version of ftkeras.")
    _assign(model.variables, tree["model"], "model")
    _assign(model.optimizer.variables, tree["optimizer"], "optimizer")
    for name, part in parts.items():
        part.load_state(tree["parts"][name])
    _set_random_state(tree["random"])


def put_metrics(model: keras.Model, tree: Tree) -> None:
    """Gives a fitted model's metrics what `take` found; Keras resets them when an epoch begins."""
    _assign(model.metrics_variables, tree["metrics"], "metrics")


def build_metrics(model: keras.Model, batches: tf.data.Dataset) -> None:
    """Makes the variables of the model's metrics, which Keras otherwise makes in the first step."""
    with model.distribute_strategy.scope():
        symbolic_build(model, batches.element_spec)


def values_of(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Returns copies of the variables' values; many times as fast as Keras's own way."""
    return [_value(variable.value) for variable in variables]


def _value(value: Any) -> np.ndarray:
    if isinstance(value, tf.distribute.DistributedValues):  # one per replica
        return np.array(tf.convert_to_tensor(value))  # a metric's is the sum over the replicas
    read = tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype)
    copy: np.ndarray = np.asarray(read.numpy())
    return copy


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray], what: str) -> None:
    specs = [(tuple(v.shape), keras.backend.standardize_dtype(v.dtype)) for v in variables]
    if specs != [(value.shape, value.dtype.name) for value in values]:
        raise UserError(
            f"the checkpoint is of another {what}: {len(values)} variables, here {len(variables)}, "
            "or of other shapes. Start again with --overwrite, or choose another folder."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _random_state() -> Tree:
    # Ours draw from seeds of their own; this is for a user's callbacks and layers.
    version, internal, gauss = random.getstate()
    drawn = drawn_global_seeds()
    return {
        "python": [version, list(internal), gauss],
        "numpy": list(np.random.get_state()),
        "keras": None if drawn is None else keras.ops.convert_to_numpy(drawn.state),
    }


def _set_random_state(state: Tree) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    if state["keras"] is not None:
        global_seeds().state.assign(state["keras"])
