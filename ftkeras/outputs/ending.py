"""What a model's outputs are: logits, or scores already; and how they become either.

Every place that turns outputs into scores or logits asks here, so that no softmax is applied twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import counted
from ftkeras.errors import UserError
from ftkeras.graph import Graph, Step, Tensor, flatten
from ftkeras.measures.metrics import sigmoid, softmax

_KINDS = {"linear": "logits", "softmax": "softmax", "sigmoid": "sigmoid"}
_SMALLEST, _LARGEST = 2.0**-126, 1 - 2.0**-24  # of normal float32 numbers between 0 and 1

# By the names of their types, since Keras does not export the types of its operations.
_SAME_VALUES = {
    "ActivityRegularization", "AlphaDropout", "Cast", "Dropout", "ExpandDims", "Flatten",
    "GaussianDropout", "GaussianNoise", "GetItem", "Identity", "Permute", "Reshape",
    "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Squeeze", "StopGradient",
    "Transpose",
}  # fmt: skip
_SAME_MEANING = {
    "Average", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "Concatenate",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D", "Mean",
}  # fmt: skip
"""Means of logits are logits, means of scores are scores."""
_ANYTHING = {"FlaxLayer", "JaxLayer", "Lambda", "TFSMLayer", "TorchModuleWrapper"}
"""Keras layers whose insides are unknown."""


@dataclass(frozen=True)
class Ending:
    """What a classifier puts out, which its last layer decides.

    One unit that tells two classes apart counts as both: its sigmoid is the score of the second
    class, as in Keras's losses.

    Args:
        kind: logits; or scores: of a softmax, or of one sigmoid per unit.
        units: How many numbers per example.
        exclusive: Whether exactly one class is right; otherwise each is a question of its own.

    Example:
        ```python
        ending = ending_of(model)
        scores = ending.scores(model(images, training=False))  # (n, ending.classes)
        ```
    """

    kind: Literal["logits", "softmax", "sigmoid"]
    units: int
    exclusive: bool = True

    @property
    def classes(self) -> int:
        """How many classes the output is about."""
        return 2 if self._is_binary else self.units

    def scores(self, outputs: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
        """Returns float32 scores (n, classes): at temperature 1 what the model says itself.

        Args:
            outputs: What the model returned, (n, units).
            temperature: What the logits are divided by (Guo et al. 2017).
        """
        if self.kind == "logits" or temperature != 1:
            logits = self._as_logits(outputs) / temperature
            return tf.sigmoid(logits) if self.is_independent else tf.nn.softmax(logits)
        scores = tf.cast(outputs, tf.float32)
        return tf.concat([1 - scores, scores], axis=1) if self._is_binary else scores

    def expected(self, said: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Returns `scores` in NumPy, with none of the operations that an export is made of.

        If the outputs are scores and the temperature is 1, nothing is done to them.

        Raises:
            UserError: The outputs are taken for logits and are scores.
        """
        if self.kind == "logits":
            _check_logits(said)
            logits = np.asarray(said, np.float64)
        elif temperature == 1:
            return np.hstack([1 - said, said]) if self._is_binary else said
        else:
            scores = np.clip(np.asarray(said, np.float64), _SMALLEST, _LARGEST)
            logits = np.log(scores)
            if self.kind == "sigmoid":
                logits -= np.log1p(-scores)
        activation = sigmoid if self.is_independent or self._is_binary else softmax
        scores = activation(logits / temperature)
        return np.hstack([1 - scores, scores]) if self._is_binary else scores

    def logits(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits (n, classes), whose softmax or sigmoid are the scores.

        Args:
            outputs: What the model returned, (n, units).

        Raises:
            UserError: One sigmoid per class is not the softmax of any logits.
        """
        if self.exclusive and self.is_independent:
            raise UserError(
                "model: the last layer gives each class a sigmoid of its own, and exactly one "
                "class is right for each example. Measure such a model on data with any number of "
                "labels, or end it with a softmax."
            )
        return self._as_logits(outputs)

    kept = logits  # what predictions keep

    @property
    def _is_binary(self) -> bool:
        return self.units == 1 and self.exclusive

    @property
    def is_independent(self) -> bool:
        """Whether each class has a sigmoid of its own."""
        return not self.exclusive or (self.kind == "sigmoid" and not self._is_binary)

    def _as_logits(self, outputs: tf.Tensor) -> tf.Tensor:
        logits = tf.cast(outputs, tf.float32)
        if self.kind != "logits":
            # A float32 score can be 0 or 1, whose logits are infinite.
            scores = tf.clip_by_value(logits, _SMALLEST, _LARGEST)
            logits = tf.math.log(scores)
            if self.kind == "sigmoid":
                logits -= tf.math.log(1 - scores)
        return tf.concat([-logits / 2, logits / 2], axis=1) if self._is_binary else logits


def _check_logits(said: np.ndarray) -> None:
    """Refuses what adds up to 1 for each example: an unknown layer's scores, not logits."""
    if said.shape[1] > 1 and (said >= 0).all() and np.allclose(said.sum(1), 1, atol=1e-3):
        raise UserError(
            "export: the model's outputs add up to 1 for each example, so they are scores, but the "
            "last layer says that they are logits. Set that layer's attribute `activation` to "
            "'softmax'."
        )


def ending_of(model: keras.Model, name: str | None = None, *, exclusive: bool = True) -> Ending:
    """Returns what a classifier puts out, from the activation of its last layer.

    Nested models are opened; dropout, reshaping, casts and averages are passed through. A layer of
    another make says what it puts out by an attribute `activation`, as Keras's own layers do.

    Args:
        model: Returns (n, units).
        name: Which output, if the model returns a dict.
        exclusive: Whether exactly one class is right; otherwise each is a question of its own.

    Raises:
        UserError: The outputs are neither logits nor scores, or do not suit the labels.
    """
    graph = flatten(model)
    shape, end = _shape_and_end(model, graph, name)
    if len(shape) != 2 or shape[1] is None:
        raise UserError(
            f"model: the output has the shape {shape}; a classifier's is (None, classes). "
            "End the model with pooling or keras.layers.Flatten()."
        )
    if end.activation is None:
        raise UserError(
            f"model: nothing says what {end.layer} puts out. Set its attribute `activation` to "
            "'linear' (logits), 'softmax' or 'sigmoid', or end the model with a layer that has one."
        )
    if end.activation not in _KINDS:
        raise UserError(
            f"model: {end.layer} has the activation {end.activation}, so the outputs are neither "
            "logits nor scores. End the model with a layer that has no activation (logits), a "
            "softmax over all classes, or a sigmoid."
        )
    if end.activation == "softmax" and (not exclusive or shape[1] == 1):
        why = (
            "1 for every example, since it has one unit. End the model with a sigmoid."
            if exclusive
            else "scores that share 1 among the classes, and any number of labels (multi_label) "
            "needs one score per label. Leave multi_label out, or end the model with a sigmoid."
        )
        raise UserError(f"model: the softmax of {end.layer} gives {why}")
    return Ending(_KINDS[end.activation], shape[1], exclusive)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _End:
    """The layer that decides what an output is; its activation is None if that is unknown."""

    layer: str
    activation: str | None


def _shape_and_end(
    model: keras.Model, graph: Graph | None, name: str | None
) -> tuple[tuple[int | None, ...], _End]:
    if not getattr(model, "outputs", None):
        raise UserError("model: it has no inputs and outputs. Make it Functional or Sequential.")
    structure = model.output if graph is None else graph.structure
    several = structure if isinstance(structure, dict) else None
    if name is not None and (several is None or name not in several):
        raise UserError(f"model: there is no output {name!r}.")
    if name is None and (len(model.outputs) > 1 or several is not None):
        raise UserError(
            f"model: it has {counted(len(model.outputs), 'output')}, by name or in a list. A "
            "classifier has one: keras.Model(model.input, model.outputs[0])."
        )
    index = 0 if name is None else sorted(several or ()).index(name)
    shape = tuple(model.outputs[index].shape)
    if graph is None:
        return shape, _End(_described(model), _own_activation(model))
    return shape, _end_of(graph, graph.outputs[index], shape[-1])


def _end_of(graph: Graph, output: Tensor, units: int | None) -> _End:
    """Follows an output back to the layer that decides what it is."""
    makers = {tensor: step for step in graph.steps for tensor in step.outputs}

    def follow(tensor: Tensor) -> _End:
        step = makers.get(tensor)
        if step is None:
            return _End("the input", "linear")
        operation, kind = _acting(step), type(_acting(step)).__name__
        activation = _activation(operation)
        if kind in _SAME_VALUES or (kind == "Activation" and activation == "linear"):
            return follow(step.inputs[0])
        if activation == "softmax":
            return _End(_described(operation), _softmax(operation, tensor, units))
        if activation is not None:
            return _End(_described(operation), activation)
        if isinstance(operation, keras.Model) and (inner := flatten(operation)) is not None:
            return _end_of(inner, inner.outputs[step.outputs.index(tensor)], units)
        if not type(operation).__module__.startswith("keras.") or kind in _ANYTHING:
            return _End(_described(operation), None)
        ends = [follow(tensor) for tensor in step.inputs]
        if kind in _SAME_MEANING and len({end.activation for end in ends}) == 1:
            return ends[0]
        # What is left computes real numbers; from scores alone, they could mean anything.
        scores = bool(ends) and all(end.activation in ("softmax", "sigmoid") for end in ends)
        return _End(_described(operation), None if scores else "linear")

    return follow(output)


def _acting(step: Step) -> Any:
    """Returns the operation of a step, or the layer that a wrapper puts around."""
    operation = step.operation
    return operation.layer if isinstance(operation, keras.layers.Wrapper) else operation


def _activation(operation: Any) -> str | None:
    """Returns the name of an operation's activation, or None if it has none of a known name."""
    if hasattr(operation, "activation"):
        return _own_activation(operation)
    name = re.sub("(?<!^)(?=[A-Z][a-z])", "_", type(operation).__name__).lower()  # LeakyReLU
    try:
        keras.activations.get(name)
    except ValueError:
        return "prelu" if name == "p_relu" else None
    return name


def _own_activation(operation: Any) -> str | None:
    """Returns the name of what the attribute `activation` holds; None if there is none."""
    if not hasattr(operation, "activation"):
        return None
    activation = operation.activation
    if activation is None or isinstance(activation, str):
        return activation or "linear"
    if isinstance(activation, keras.layers.Layer):
        return _activation(activation)
    name = getattr(activation, "__name__", type(activation).__name__)
    return str(name).removesuffix("_v2")  # as TensorFlow calls its softmax


def _softmax(operation: Any, tensor: Tensor, units: int | None) -> str:
    """Returns "softmax", or more words if it is not over all units."""
    axis, last = getattr(operation, "axis", -1), len(tensor.shape) - 1
    if axis not in (-1, last, [-1], [last], (-1,), (last,)):
        return f"softmax over axis {axis}"
    if tensor.shape[-1] != units:
        return f"softmax over {tensor.shape[-1]} of {units} units"
    return "softmax"


def _described(operation: Any) -> str:
    return f"the layer {operation.name!r} ({type(operation).__name__})"
