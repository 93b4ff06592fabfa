"""A functional Keras model as a flat list of calls, and models that run a stretch of it.

Nothing is added to the layers' own record of their calls: a layer can be part of any number of
these models, for any length of time, and still be saved with the model that it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from ftkeras.keras_internals import (
    functional_of,
    layers_inside,
    nodes_in_order,
    takes_training,
)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A place where a value flows; two of them are never equal.

    Args:
        shape: Its shape, the batch first; None where a size isn't known.
        dtype: Its type's name.
    """

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a layer or operation.

    Args:
        operation: What is called.
        args: Positional arguments; nested structures in which tensors are `Tensor`.
        kwargs: Keyword arguments, likewise.
        outputs: What comes out, flat.
    """

    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return [x for x in keras.tree.flatten((self.args, self.kwargs)) if isinstance(x, Tensor)]

    def call(self, values: Mapping[Tensor, Any], training: bool | None) -> list[Any]:
        """Calls the operation on values and returns its flat outputs."""

        def fill(argument: Any) -> Any:
            return values[argument] if isinstance(argument, Tensor) else argument

        args, kwargs = keras.tree.map_structure(fill, (self.args, self.kwargs))
        # As in a functional model: `training` from outside wins over what the call was given.
        if training is not None and takes_training(self.operation):
            kwargs["training"] = training
        outputs: list[Any] = keras.tree.flatten(self.operation(*args, **kwargs))
        return outputs


@dataclass(frozen=True)
class Graph:
    """Steps in an order in which they can run.

    Args:
        steps: The calls.
        inputs: What must be given.
        outputs: What is asked for.
        structure: How the outputs are nested: a tensor, list, tuple or dict in their place.
    """

    steps: tuple[Step, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    structure: Any

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers that are called, each once."""
        layers = (s.operation for s in self.steps if isinstance(s.operation, keras.layers.Layer))
        return list(dict.fromkeys(layers))


class GraphModel(keras.Model):
    """A model that runs a graph; its layers and weights are those of the model it came from.

    Args:
        graph: What to run. One input is given as it is, several as a tuple.
        name: The model's name.
        whole: The model that it came from, to list weights in the same order: that of the calls may
            be another one, and a sum over all gradients is then rounded in another way.
    """

    def __init__(self, graph: Graph, name: str, whole: keras.Model | None = None):
        # As in a functional model, each input has its own dtype, whatever the model's policy.
        super().__init__(name=name, autocast=False)
        self.graph = graph
        layers = graph.layers
        if whole is not None:
            order = [id(layer) for layer in layers_inside(whole)]
            layers.sort(key=lambda layer: order.index(id(layer)))
        self._own_layers = layers  # as an attribute, so that Keras finds their weights
        self.built = True

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        pairs = zip(self.graph.inputs, keras.tree.flatten(inputs), strict=True)
        values = {tensor: keras.ops.cast(value, tensor.dtype) for tensor, value in pairs}
        for step in self.graph.steps:
            values.update(zip(step.outputs, step.call(values, training), strict=True))
        outputs = [values[tensor] for tensor in self.graph.outputs]
        return keras.tree.pack_sequence_as(self.graph.structure, outputs)


def flatten(model: keras.Model) -> Graph | None:
    """Returns a functional model's calls, with nested functional models opened.

    Returns:
        None where the model isn't functional (nor a built Sequential one), or overrides `call`.
    """
    opened = _opened(model)
    if opened is None:
        return None
    inputs = tuple(_tensor(x) for x in opened.inputs)
    steps: list[Step] = []
    outputs = _walk(opened, inputs, steps)
    structure = opened.output
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        structure = structure[0]  # Keras takes it out of its list, too
    return Graph(tuple(steps), inputs, tuple(outputs), structure)


def _walk(model: keras.Model, inputs: Sequence[Tensor], steps: list[Step]) -> list[Tensor]:
    """Appends the model's calls on `inputs` to `steps` and returns its outputs."""
    tensor_of = dict(zip(map(id, model.inputs), inputs, strict=True))
    for node in nodes_in_order(model):
        if node.is_input or any(id(x) not in tensor_of for x in node.input_tensors):
            continue
        args, kwargs = node.arguments.fill_in(tensor_of)
        if _can_open(node.operation, args, kwargs):
            inner = _opened(node.operation)
            outputs = _walk(inner, keras.tree.flatten(args[0]), steps)
        else:
            outputs = [_tensor(x) for x in node.outputs]
            steps.append(Step(node.operation, args, kwargs, tuple(outputs)))
        tensor_of.update(zip(map(id, node.outputs), outputs, strict=True))
    return [tensor_of[id(x)] for x in model.outputs]


def _opened(operation: Any) -> Any:
    """Returns the graph-holding model that an operation is, or None."""
    call = getattr(getattr(type(operation), "call", None), "__qualname__", "")
    if call == "Sequential.call":
        return functional_of(operation)
    return operation if call == "Functional.call" else None


def _can_open(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether running the inner calls one by one is the same as calling a nested model."""
    inner = _opened(operation)
    if inner is None or len(args) != 1 or operation.activity_regularizer is not None:
        return False
    if any(kwargs.values()):  # training=False is what comes from outside anyway; True is not
        return False
    if isinstance(args[0], dict) or isinstance(inner.input, dict):
        return False  # Keras would match them by name
    inputs: Iterable[Tensor] = keras.tree.flatten(args[0])
    wanted = [(tuple(x.shape), x.dtype) for x in inner.inputs]
    return [(x.shape, x.dtype) for x in inputs] == wanted


def _tensor(tensor: keras.KerasTensor) -> Tensor:
    return Tensor(tuple(tensor.shape), tensor.dtype)
