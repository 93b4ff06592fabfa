"""How much memory a training step takes for what its backward pass reads.

Plain layers are counted by rules: which of what enters and leaves them TensorFlow's gradient reads.
A layer that holds layers, such as a block of a Transformer, is traced once, forward and backward.
That finds the probabilities of its attention (heads x length^2) and its dropout masks, too. If that
fails, what it puts out is counted.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.graph import Graph, Step, Tensor, flatten
from ftkeras.keras_internals import children, clear_losses, flat_layers
from ftkeras.phases.checkpointing import Stretch, gradient_flows, is_float, stretches
from ftkeras.phases.selectors import Weights

_LENGTH = 128  # what a size counts as that only the batch decides, if nothing says it
_EXAMPLES = 2  # that are traced: with one, TensorFlow leaves broadcasting out
_PASSING = 2  # the largest tensors that exist beside what is kept: an input and a result

# What computes a sum, or moves numbers: its gradient reads neither what enters nor what leaves.
_LINEAR = frozenset(
    (
        *("Add", "Subtract", "Average", "Mean", "Sum", "Concatenate", "Stack", "Split", "Reshape"),
        *("Flatten", "Permute", "Transpose", "ExpandDims", "Squeeze", "GetItem", "Cast", "Copy"),
        *("Pad", "BroadcastTo", "RepeatVector", "Identity", "Rescaling", "ZeroPadding1D"),
        *("ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling2D", "GlobalAveragePooling1D"),
        *("GlobalAveragePooling2D", "AveragePooling1D", "AveragePooling2D", "Normalization"),
        *("AttachMask",),
    )
)
_SAME_NUMBERS = frozenset(("Reshape", "Flatten", "ExpandDims", "Squeeze", "Identity", "AttachMask"))
_BY_RESULT = frozenset(("relu", "relu6", "sigmoid", "tanh", "softmax", "exponential", "linear"))
_OF_GATES = 6  # numbers that a recurrent layer keeps for each that it gives


@dataclasses.dataclass(frozen=True)
class Activations:
    """What one example takes in a training step.

    Args:
        kept: Bytes that the backward pass reads.
        checkpointed: The same, if blocks are computed once more in the backward pass.
        passing: Bytes of what exists beside that for a moment.
    """

    kept: int
    checkpointed: int
    passing: int


def activations(
    model: keras.Model,
    weights: Weights,
    trained: Collection[int],
    *,
    length: int | None = None,
) -> Activations:
    """Returns what one example takes in a training step.

    Args:
        model: The model. If it is not functional, what layers are known to put out is counted.
        weights: What `weights_of` returned for it.
        trained: The weights that train, by id of their variable.
        length: Of sequences, if the model takes any length.

    Example:
        >>> inputs = keras.Input((8, 8, 3))
        >>> x = keras.layers.Conv2D(4, 1)(inputs)
        >>> x = keras.layers.GlobalAveragePooling2D()(x)
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(x))
        >>> trained = {id(weight) for weight in model.weights}
        >>> activations(model, weights_of(model), trained).kept  # what both kernels multiply
        784
    """
    graph = flatten(model)
    if graph is None:
        outputs = [
            x for layer in model.layers for x in keras.tree.flatten(getattr(layer, "output", []))
        ]
        sizes = [_bytes(Tensor(tuple(x.shape), x.dtype), length) for x in outputs]
        return Activations(sum(sizes), sum(sizes), _PASSING * max(sizes, default=0))
    reading = _Reading(graph, trained, length)
    whole = reading.kept([Stretch(graph.steps, None, (), ())])
    return Activations(whole, min(whole, reading.kept(stretches(graph, weights))), reading.passing)


class _Reading:
    """What the gradients of a graph's calls read."""

    def __init__(self, graph: Graph, trained: Collection[int], length: int | None):
        self._flows = gradient_flows(graph, trained)
        self._trained, self._length = trained, length
        self._source: dict[Tensor, Tensor] = {}  # of tensors that are another one's numbers
        for step in graph.steps:
            if type(step.operation).__name__ in _SAME_NUMBERS and len(step.inputs) >= 1:
                self._source[step.outputs[0]] = self.sources(step.inputs)[0]
        sizes = [_bytes(x, length) for step in graph.steps for x in step.outputs]
        self._largest = max(sizes, default=0)
        self._unfolded = max(map(self._unfold, self._flows), default=0)

    @property
    def passing(self) -> int:
        """The bytes of what exists for a moment; of layers that hold layers, those read so far."""
        return _PASSING * self._largest + self._unfolded

    def _unfold(self, step: Step) -> int:
        """Returns the bytes of a convolution's patches, which the gradient of its kernel takes."""
        layer: Any = step.operation
        if not isinstance(layer, (keras.layers.Conv1D, keras.layers.Conv2D)):
            return 0
        if id(layer.kernel) not in self._trained or math.prod(layer.kernel_size) == 1:
            return 0
        patch = math.prod(layer.kernel.shape[:-1])
        return patch * self._bytes(step.outputs[0]) // layer.filters

    def sources(self, tensors: Any) -> list[Tensor]:
        """Returns the tensors that hold the numbers of these."""
        return [self._source.get(x, x) for x in tensors]

    def kept(self, parts: Sequence[Stretch]) -> int:
        """Returns the bytes that are kept; of the blocks among the parts, one at a time.

        What follows them is free when the first block is computed once more.
        """
        last = max((i for i, part in enumerate(parts) if part.block is not None), default=-1)
        kept: dict[Tensor, None] = {}
        inner, again = 0, 0
        for index, part in enumerate(parts):
            tensors, hidden = self.of(part.steps)
            if index < last and (part.block is None or not tensors):
                inner += hidden
            else:
                own = set(self.sources(x for step in part.steps for x in step.outputs))
                inside = hidden + sum(self._bytes(x) for x in own.intersection(tensors))
                again = max(again, inside)
                entering = self.sources(x for x in part.inputs if is_float(x))
                tensors = [x for x in (*entering, *tensors) if x not in own]
            kept.update(dict.fromkeys(tensors))
        return sum(map(self._bytes, kept)) + inner + again

    def of(self, steps: Sequence[Step]) -> tuple[list[Tensor], int]:
        """Returns which tensors are kept for some calls, and the bytes inside their layers."""
        tensors: list[Tensor] = []
        inside = 0
        for step in steps:
            if step in self._flows:
                read, hidden = self._read(step)
                tensors += self.sources(read)
                inside += hidden
        return tensors, inside

    def _bytes(self, tensor: Tensor) -> int:
        return _bytes(tensor, self._length)

    def _read(self, step: Step) -> tuple[list[Tensor], int]:
        layer, kind = step.operation, type(step.operation).__name__
        floats = [x for x in step.inputs if is_float(x)]
        result = sum(self._bytes(x) for x in step.outputs)
        parts = flat_layers(layer) if isinstance(layer, keras.layers.Layer) else []
        if any(isinstance(part, keras.layers.RNN) for part in parts):
            return [*floats, *step.outputs], _OF_GATES * self._steps_of(step, parts)
        if parts and children(layer):
            found = self._traced(step)
            self._largest = max(self._largest, found.largest)
            return (floats if found.reads_input else []), found.kept
        if kind in _LINEAR:
            return [], 0
        if kind in ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout"):
            return [], sum(_numbers(x, self._length) for x in step.outputs) * bool(layer.rate)
        called = _activation(layer, kind)
        if called in _BY_RESULT:
            by_result, hidden = called != "linear", 0
        else:
            by_result, hidden = False, result if parts and layer.weights else 0
        own = any(id(x) in self._trained for part in parts for x in part.variables)
        frozen = parts and layer.weights and not own
        steady = frozen and not isinstance(layer, keras.layers.LayerNormalization)
        unread = steady or (by_result and not (parts and layer.weights))
        return [*([] if unread else floats), *(step.outputs if by_result else ())], hidden

    def _steps_of(self, step: Step, parts: Sequence[Any]) -> int:
        units = sum(part.units for part in parts if hasattr(part, "units"))
        length = next((x.shape[1] for x in step.inputs if len(x.shape) > 2), 1)
        return units * (length or self._length or _LENGTH) * 4

    def _traced(self, step: Step) -> _Traced:
        try:
            return self._trace_once(step)
        except Exception:  # a person's own layer may fail here in any way; this is a forecast only
            size = sum(map(self._bytes, step.outputs))
            return _Traced(size, size, reads_input=True)

    def _trace_once(self, step: Step) -> _Traced:
        layer: Any = step.operation
        inside = [x for part in flat_layers(layer) for x in part.variables]
        try:
            config = json.dumps(keras.saving.serialize_keras_object(layer), default=str)
        except NotImplementedError:  # it has no `get_config`: nothing tells it from others
            return _trace(step, self._trained, self._length)
        key = (
            config.replace(f'"{layer.name}"', '""'),
            str([_sized(x, self._length) for x in step.inputs]),
            tuple(id(x) in self._trained for x in inside),
        )
        if key not in _known:
            _known[key] = _trace(step, self._trained, self._length)
        return _known[key]


def _activation(layer: Any, kind: str) -> str:
    """Returns the name of the function that a layer applies to its result, or is."""
    own = getattr(layer, "activation", None)
    if own is None:
        return (
            {"MaxPooling2D": "relu", "Softmax": "softmax"}.get(kind, kind.lower().strip("_"))
            if not getattr(layer, "weights", ())
            else "linear"
        )
    return str(getattr(own, "__name__", own))


# -------------------------------------------------------------- layers that hold layers


@dataclasses.dataclass(frozen=True)
class _Traced:
    """What the gradient of one layer reads, for one example."""

    kept: int
    largest: int
    reads_input: bool


_known: dict[Any, _Traced] = {}

# What takes no memory of its own: the numbers of its input, or of a weight, or next to nothing.
_VIEWS = frozenset(("Reshape", "Identity", "IdentityN", "ExpandDims", "Squeeze", "StopGradient"))
_OUTSIDE = frozenset(("Const", "ReadVariableOp", "Placeholder"))


def _trace(step: Step, trained: Collection[int], length: int | None) -> _Traced:
    """Traces one call of a layer, and its gradient, and looks what flows from one to the other."""
    layer: Any = step.operation
    count = step.inputs[0].shape[0] or _EXAMPLES
    specs = [tf.TensorSpec((count, *_sized(x, length)), x.dtype) for x in step.inputs]
    learned = [x.value for x in layer.trainable_variables if id(x) in trained]
    forward: list[tf.Operation] = []

    @tf.autograph.experimental.do_not_convert
    def run(*values: tf.Tensor) -> list[tf.Tensor]:
        floats = [x for x in values if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            results = step.call(dict(zip(step.inputs, values, strict=True)), True)
            results = [x for x in results if x.dtype.is_floating]
        forward.extend(values[0].graph.get_operations())
        if not results:
            return []
        gradients = tape.gradient(results, [*floats, *learned])
        return [tf.convert_to_tensor(x) for x in gradients if x is not None]

    try:
        graph = tf.function(run, autograph=False).get_concrete_function(*specs).graph
    finally:
        clear_losses(layer)
    before = {op.name for op in forward}
    backward = [op for op in graph.get_operations() if op.name not in before]
    read = {_origin(x).ref() for op in backward for x in op.inputs}
    kept = [x.deref() for x in read if x.deref().op.name in before]
    inner = [x for x in kept if x.op.type not in _OUTSIDE]
    largest = max((_size(x) for op in forward for x in op.outputs), default=0)
    return _Traced(
        sum(map(_size, inner)) // count,
        largest // count,
        any(x.op.type == "Placeholder" and x.dtype.is_floating for x in kept),
    )


def _origin(tensor: Any) -> Any:
    while tensor.op.type in _VIEWS:
        index = tensor.value_index if tensor.op.type == "IdentityN" else 0
        tensor = tensor.op.inputs[index]
    return tensor


def _size(tensor: Any) -> int:
    plain = tensor.shape.is_fully_defined() and tensor.dtype not in (tf.resource, tf.variant)
    outside = tensor.op.type in _OUTSIDE
    return math.prod(tensor.shape) * tensor.dtype.size if plain and not outside else 0


# ------------------------------------------------------------------------------- sizes


def _sized(tensor: Tensor, length: int | None) -> tuple[int, ...]:
    return tuple(size or length or _LENGTH for size in tensor.shape[1:])


def _numbers(tensor: Tensor, length: int | None) -> int:
    return math.prod(_sized(tensor, length))


def _bytes(tensor: Tensor, length: int | None) -> int:
    return _numbers(tensor, length) * tf.as_dtype(tensor.dtype).size
