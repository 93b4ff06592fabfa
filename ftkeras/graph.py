"""A functional Keras model as a flat list of calls, and models that run a stretch of it.

Nothing is added to the layers' own record of their calls. So a layer can be part of any number of
these models, and still be saved with the model that it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from ftkeras.keras_internals import (
    children,
    functional_of,
    layers_inside,
    nodes_in_order,
    takes_training,
)

# Layers of keras-hub that hold a part of a network, and do nothing but call what they hold.
_STACKS = (
    *("ViTEncoder", "DeiTEncoder", "DINOV2Encoder", "DINOV3Encoder"),
    *("HGNetV2Encoder", "HGNetV2Stage", "SwinTransformerStage"),
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

    def on(self, others: Mapping[Tensor, Tensor]) -> Step:
        """Returns the same call on other tensors: those that `others` has for its inputs."""

        def other(argument: Any) -> Any:
            return others.get(argument, argument) if isinstance(argument, Tensor) else argument

        args, kwargs = keras.tree.map_structure(other, (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)


@dataclass(frozen=True, eq=False)
class Graph:
    """Steps in an order in which they can run.

    Args:
        steps: The calls.
        inputs: What must be given.
        outputs: What is asked for.
        structure: How the outputs are nested: a tensor, list, tuple or dict in their place.
        names: The names of the inputs in a dict; empty if the graph takes none.
    """

    steps: tuple[Step, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    structure: Any
    names: tuple[str, ...] = ()

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers that are called, each once."""
        layers = (s.operation for s in self.steps if isinstance(s.operation, keras.layers.Layer))
        return list(dict.fromkeys(layers))

    def in_order(self, inputs: Any) -> list[Any]:
        """Returns what is given for the inputs, in their order.

        Args:
            inputs: One value, a list or tuple of them in order, or a dict by input name, in which
                other names are left out, as Keras does.

        Raises:
            ValueError: A dict lacks an input.
        """
        return _in_order(inputs, self.names)


class GraphModel(keras.Model):
    """A model that runs a graph; its layers and weights are those of the model it came from.

    Keras masks reach the layers as in a functional model: each is attached to a tensor.

    Args:
        graph: What to run. One input is given as it is, several as a list, a tuple or a dict by
            name; see `Graph.in_order`.
        name: The model's name.
        whole: The model that it came from, to list weights in the same order. The order of the
            calls may differ, and a sum over all gradients would then be rounded in another way.
    """

    def __init__(self, graph: Graph, name: str, whole: keras.Model | None = None):
        # As in a functional model, each input has its own dtype, whatever the model's policy.
        super().__init__(name=name, autocast=False)
        self.graph = graph
        layers = graph.layers
        if whole is not None:
            order = [id(layer) for layer in layers_inside(whole)]
            layers = [layer for layer in layers if not isinstance(layer, (ReadMask, AttachMask))]
            layers.sort(key=lambda layer: order.index(id(layer)))
        self._own_layers = layers  # as an attribute, so that Keras finds their weights
        self.built = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None  # the layers attach what masks there are

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        values = values_of(self.graph, inputs, mask)
        run_steps(self.graph.steps, values, training)
        return results_of(self.graph, values)


def values_of(graph: Graph, inputs: Any, mask: Any = None) -> dict[Tensor, Any]:
    """Returns the values of a graph's inputs, with their Keras masks attached."""
    pairs = zip(graph.inputs, graph.in_order(inputs), strict=True)
    values = {tensor: keras.ops.cast(value, tensor.dtype) for tensor, value in pairs}
    masks = () if mask is None else graph.in_order(mask)
    for tensor, its_mask in zip(graph.inputs, masks, strict=False):
        if its_mask is not None:
            values[tensor] = AttachMask()([values[tensor], its_mask])
    return values


def run_steps(steps: Sequence[Step], values: dict[Tensor, Any], training: bool | None) -> None:
    """Runs calls on what is in `values`, and puts their results there."""
    for step in steps:
        values.update(zip(step.outputs, step.call(values, training), strict=True))


def results_of(graph: Graph, values: Mapping[Tensor, Any]) -> Any:
    """Returns a graph's outputs among `values`, nested as the graph says."""
    outputs = [values[tensor] for tensor in graph.outputs]
    return keras.tree.pack_sequence_as(graph.structure, outputs)


class ReadMask(keras.layers.Layer):
    """Returns the Keras mask that is attached to a tensor, or None: Keras passes it as `mask`."""

    def __init__(self, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return mask

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None  # a mask has none


class AttachMask(keras.layers.Layer):
    """Takes a tensor and a mask, and returns the tensor with that Keras mask attached."""

    def __init__(self, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs: Any) -> Any:
        return keras.ops.copy(inputs[0])  # the tensor itself keeps the mask that it has

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return inputs[1]


def stacked(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers in a stack, in the order of their calls; of any other layer none.

    A stack is a layer that only calls the layers inside it, such as the encoder of a vision
    transformer. Opened, a part of it can be frozen and stored, and each of its layers is a block.
    """
    known = type(layer).__name__ in _STACKS and type(layer).__module__.startswith("keras_hub.")
    return children(layer) if known else []


def flatten(model: keras.Model) -> Graph | None:
    """Returns a functional model's calls, with nested functional models and stacks opened.

    Its inputs, and those of nested models, may be one tensor, a list, or a dict by name.

    Returns:
        None if the model isn't functional (nor a built Sequential one), or overrides `call`.
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
    return Graph(tuple(steps), inputs, tuple(outputs), structure, _input_names(opened))


def _walk(model: Any, inputs: Sequence[Tensor], steps: list[Step]) -> list[Tensor]:
    """Appends the calls of a model or function on `inputs` to `steps` and returns its outputs."""
    tensor_of = dict(zip(map(id, model.inputs), inputs, strict=True))
    sized = [x.shape for x in inputs] != [tuple(x.shape) for x in model.inputs]
    for node in nodes_in_order(model):
        if node.is_input or any(id(x) not in tensor_of for x in node.input_tensors):
            continue
        args, kwargs = node.arguments.fill_in(tensor_of)
        inner = _to_open(node.operation, args, kwargs)
        if inner is not None:
            names = _input_names(inner)
            given = _in_order(args[0], names)
            masks = [] if kwargs.get("mask") is None else _in_order(kwargs["mask"], names)
            for index, mask in enumerate(masks):
                if isinstance(mask, Tensor):
                    steps.append(attached(given[index], mask))
                    (given[index],) = steps[-1].outputs
            outputs = _walk(inner, given, steps)
        elif isinstance(node.operation, keras.layers.Layer) and stacked(node.operation):
            outputs = _walk_stack(node.operation, args, kwargs, steps)
        elif _is_of_shape(node.operation):
            outputs = _of_shape(node.operation, args[0])
        else:
            made = _specs(node.operation, args, kwargs) if sized else node.outputs
            outputs = [_tensor(x) for x in made]
            steps.append(Step(node.operation, args, kwargs, tuple(outputs)))
        tensor_of.update(zip(map(id, node.outputs), outputs, strict=True))
    return [tensor_of[id(x)] for x in model.outputs]


def _walk_stack(layer: Any, args: Any, kwargs: Any, steps: list[Step]) -> list[Tensor]:
    """Appends the calls that a stack makes to `steps` and returns its outputs.

    They are found by running its `call` on symbolic tensors. That adds to the record of the calls
    of the layers inside, which nothing else reads.
    """
    if type(layer).__name__ == "DeiTEncoder":
        return _walk_deit(layer, args[0], steps)
    given = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, Tensor)]
    symbols = {x: keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in given}

    def symbolic(argument: Any) -> Any:
        return symbols[argument] if isinstance(argument, Tensor) else argument

    args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
    inner = keras.Function(list(symbols.values()), keras.tree.flatten(layer.call(*args, **kwargs)))
    return _walk(inner, list(symbols), steps)


def _walk_deit(layer: Any, features: Tensor, steps: list[Step]) -> list[Tensor]:
    """Does the same for DeiT's, whose layers give None beside the features: no symbolic call may.

    The stack itself gives two empty tensors beside them, which nothing takes.
    """

    def tensor() -> Tensor:
        return Tensor(features.shape, features.dtype)

    for block in layer.encoder_layers:
        steps.append(Step(block, (features,), {}, (tensor(), tensor())))
        features = steps[-1].outputs[0]
    steps.append(Step(layer.layer_norm, (features,), {}, (tensor(),)))
    return [*steps[-1].outputs, tensor(), tensor()]


def _is_of_shape(operation: Any) -> bool:
    """Whether what an operation gives has no batch, and depends on the size of its input alone."""
    kind = type(operation)
    known = kind.__name__ == "DINOV3RopePositionEmbedding"
    return known and kind.__module__.startswith("keras_hub.")


def _of_shape(operation: Any, given: Tensor) -> list[Any]:
    """Returns what such an operation gives, as constants, so that none of it has to be stored."""
    zeros = keras.ops.zeros([size or 1 for size in given.shape], given.dtype)
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(operation(zeros))]


def attached(tensor: Tensor, mask: Tensor) -> Step:
    """Returns the step that attaches a Keras mask to a tensor."""
    return Step(AttachMask(), ([tensor, mask],), {}, (Tensor(tensor.shape, tensor.dtype),))


def _specs(operation: Any, args: Any, kwargs: Any) -> list[keras.KerasTensor]:
    """Returns what an operation gives for tensors of these sizes."""

    def symbolic(argument: Any) -> Any:
        is_tensor = isinstance(argument, Tensor)
        return keras.KerasTensor(argument.shape, argument.dtype) if is_tensor else argument

    args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
    specs: list[keras.KerasTensor] = keras.tree.flatten(
        operation.compute_output_spec(*args, **kwargs)
    )
    return specs


def _opened(operation: Any) -> Any:
    """Returns the graph-holding model that an operation is, or None."""
    call = getattr(getattr(type(operation), "call", None), "__qualname__", "")
    if call == "Sequential.call":
        return functional_of(operation)
    return operation if call == "Functional.call" else None


def _to_open(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Returns the nested model that is called, if running its calls one by one is the same."""
    inner = _opened(operation)
    if inner is None or len(args) != 1 or operation.activity_regularizer is not None:
        return None
    others = {name: value for name, value in kwargs.items() if name != "mask"}
    if any(others.values()):  # training=False is what comes from outside anyway; True is not
        return None
    given = _in_order(args[0], _input_names(inner))
    fit = len(given) == len(inner.inputs) and all(map(_fits, given, inner.inputs))
    return inner if fit else None


def _fits(given: Any, wanted: keras.KerasTensor) -> bool:
    """Whether a nested model takes a tensor as it is; it may be made for tensors of any size."""
    if not isinstance(given, Tensor) or given.dtype != wanted.dtype:
        return False
    pairs = list(zip(given.shape, wanted.shape, strict=False))
    same_rank = len(given.shape) == len(wanted.shape)
    return same_rank and all(size in (None, own) for own, size in pairs)


def _input_names(model: Any) -> tuple[str, ...]:
    """Returns the names by which a functional model takes a dict, in the order of its inputs."""
    structure = model.input
    pairs = (
        structure.items() if isinstance(structure, dict) else ((x.name, x) for x in model.inputs)
    )
    names = {id(tensor): name for name, tensor in pairs}
    flat = all(id(x) in names for x in model.inputs)
    return tuple(names[id(x)] for x in model.inputs) if flat else ()


def _in_order(given: Any, names: Sequence[str]) -> list[Any]:
    if not isinstance(given, dict) or not names:
        flat: list[Any] = keras.tree.flatten(given)
        return flat
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"expected the inputs {list(names)} by name; {missing} are missing")
    return [given[name] for name in names]


def _tensor(tensor: keras.KerasTensor) -> Tensor:
    return Tensor(tuple(tensor.shape), tensor.dtype)
