"""Where the frozen part of a network ends: trunk, frontier and tail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ftkeras.keras_internals import (
    clear_losses,
    flat_layers,
    is_built_in,
    own_variables,
    seed_generators,
)
from ftkeras.model.graph import Graph, GraphModel, Step, Tensor, flatten
from ftkeras.phases.selectors import is_norm

# What a step may do to the world and still be the same every time.
_READS = {"Placeholder", "ReadVariableOp", "VarHandleOp"}


@dataclass(frozen=True)
class Spec:
    """One tensor of the frontier, for one example.

    Args:
        shape: Its shape, without the batch.
        dtype: Its type's name, as the layers give it.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TrunkSplit:
    """A model in two parts that share its layers: `tail(trunk(x))` is `model(x)`.

    Args:
        trunk: From the model's input to the frontier: one tensor, or a tuple of several.
        tail: From the frontier to the model's output; all that trains is in it.
        frontier: The tensors between the two.
    """

    trunk: GraphModel
    tail: GraphModel
    frontier: tuple[Spec, ...]


def split_model(
    model: keras.Model, *, silence: bool = False, graph: Graph | None = None
) -> TrunkSplit | None:
    """Divides a model by its `trainable` flags into what stays the same and what doesn't.

    A call belongs to the trunk where none of its layer's weights train, where it gives the same
    for an image every time, also in training, and where all that goes into it comes from the
    trunk. Dropout, stochastic depth, random layers and batch norm that updates its statistics
    therefore end the trunk. Of what could be in the trunk, the last cheap steps (padding,
    activations, normalisation) go to the tail where that makes the frontier smaller.

    The layers are shared, not copied, and not changed: the model can be split again for each phase.

    Args:
        model: A functional model; nested functional models are opened.
        silence: Take layers that are random in training, but have no weights, into the trunk,
            where they do nothing. The tail then equals the model at inference; in training, the
            frozen part runs as at inference.
        graph: What `flatten` gave for the model; several splits of one graph can be compared.

    Returns:
        None where there is nothing worth storing: the model isn't functional, nothing trains, all
        trains that takes time, or a tensor at the frontier has no fixed size.

    Example:
        >>> images = keras.Input((8, 8, 3))
        >>> x = keras.layers.Conv2D(4, 3, name="conv")(images)
        >>> x = keras.layers.GlobalAveragePooling2D()(x)
        >>> model = keras.Model(images, keras.layers.Dense(2)(x))
        >>> model.get_layer("conv").trainable = False
        >>> split_model(model).frontier
        (Spec(shape=(4,), dtype='float32'),)
    """
    graph = graph or flatten(model)
    if graph is None or not any(v.trainable for v in model.variables):
        return None
    steady, movable = _find_steady(graph, silence)
    tail = {step for step in graph.steps if step not in steady}
    _shrink_frontier(graph, tail, movable)
    frontier = _frontier(graph, tail)
    trunk_steps = _ancestors(graph, frontier)
    fixed = all(x.shape[0] is None and None not in x.shape[1:] for x in frontier)
    if not tail or not fixed or all(_is_cheap(step) for step in trunk_steps):
        return None
    tail_steps = tuple(step for step in graph.steps if step in tail)
    structure: Any = frontier if len(frontier) > 1 else frontier[0]
    return TrunkSplit(
        trunk=GraphModel(Graph(trunk_steps, graph.inputs, frontier, structure), "trunk"),
        tail=GraphModel(Graph(tail_steps, frontier, graph.outputs, graph.structure), "tail"),
        frontier=tuple(Spec(_sizes(x), x.dtype) for x in frontier),
    )


def is_within(split: TrunkSplit, other: TrunkSplit) -> bool:
    """Whether a split's trunk is a part of another's; both are of one graph."""
    return set(split.trunk.graph.steps) <= set(other.trunk.graph.steps)


def joined_trunk(splits: Sequence[TrunkSplit]) -> tuple[GraphModel, list[list[int]]]:
    """Returns a model that gives the frontiers of several splits at once.

    Args:
        splits: Of one graph; the first trunk holds the others.

    Returns:
        The model, and for each split which of its outputs are the frontier.
    """
    trunk = splits[0].trunk.graph
    tensors = tuple(dict.fromkeys(x for split in splits for x in split.trunk.graph.outputs))
    structure: Any = tensors if len(tensors) > 1 else tensors[0]
    indices = [[tensors.index(x) for x in split.trunk.graph.outputs] for split in splits]
    return GraphModel(Graph(trunk.steps, trunk.inputs, tensors, structure), "trunk"), indices


# --------------------------------------------------------------- what may be in the trunk


def _find_steady(graph: Graph, silence: bool) -> tuple[set[Step], set[Step]]:
    """Returns the steps that may be in the trunk, and those of them that may move to the tail."""
    known: dict[keras.Operation, bool] = {}
    constant = set(graph.inputs)
    steady, movable = set(), set()
    for step in graph.steps:
        if not constant.issuperset(step.inputs) or _trains(step.operation):
            continue
        if step.operation not in known:
            known[step.operation] = _is_steady(step, training=True)
        silenced = silence and not getattr(step.operation, "weights", None)
        if known[step.operation] or (silenced and _is_quiet(step)):
            steady.add(step)
            constant.update(step.outputs)
        if known[step.operation]:
            movable.add(step)
    return steady, movable


def _trains(operation: keras.Operation) -> bool:
    # Each weight's own flag decides: a batch norm's offset may train while the layer is frozen.
    return any(variable.trainable for variable in getattr(operation, "variables", ()))


def _is_steady(step: Step, training: bool) -> bool:
    """Whether the step neither draws random numbers nor changes anything when it runs."""
    if not isinstance(step.operation, keras.layers.Layer):
        # An operation of `keras.ops` is a pure function, unless it calls one of the user's; a
        # `keras.Function` has layers inside, which it doesn't show.
        values = [*vars(step.operation).values(), *keras.tree.flatten((step.args, step.kwargs))]
        return not (isinstance(step.operation, keras.Function) or any(map(callable, values)))
    if type(step.operation) is keras.layers.Dropout and training and step.operation.rate > 0:
        return False  # tracing would find the same, 55 times in EfficientNetB7
    parts = flat_layers(step.operation)
    if any(part.activity_regularizer is not None for part in parts):
        return False  # the loss would miss it
    if all(map(_is_known_steady, parts)):
        return True
    try:
        return not _changes_something(step, training)
    finally:
        clear_losses(step.operation)


def _is_quiet(step: Step) -> bool:
    """Whether a step without weights is steady at inference, as Keras's own all are."""
    parts = flat_layers(step.operation)
    return all(map(is_built_in, parts)) or _is_steady(step, training=False)


def _is_known_steady(layer: keras.layers.Layer) -> bool:
    if not is_built_in(layer) or seed_generators(layer):
        return False
    if isinstance(layer, keras.layers.Lambda):
        return False
    if isinstance(layer, keras.layers.BatchNormalization):
        return not layer.trainable
    return isinstance(layer, keras.layers.Normalization) or not own_variables(layer)[1]


def _changes_something(step: Step, training: bool) -> bool:
    """Traces the step and looks at what TensorFlow would do."""
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in step.inputs]

    @tf.autograph.experimental.do_not_convert
    def run(*values: tf.Tensor) -> list[tf.Tensor]:
        return step.call(dict(zip(step.inputs, values, strict=True)), training)

    graph = tf.function(run, autograph=False).get_concrete_function(*specs).graph
    called = graph.as_graph_def().library.function
    types = {op.type for op in graph.get_operations()}
    types |= {node.op for function in called for node in function.node_def}
    stateful = {op.type for op in graph.get_operations() if op.op_def.is_stateful}
    return bool(
        stateful - _READS or any("Random" in kind for kind in types) or step.operation.losses
    )


# ------------------------------------------------------------------------ where to cut


def _frontier(graph: Graph, tail: set[Step]) -> tuple[Tensor, ...]:
    """Returns what the tail (and the model's output) needs and doesn't make, in graph order."""
    made = {x for step in tail for x in step.outputs}
    needed = {x for step in tail for x in step.inputs} | set(graph.outputs)
    in_order = [*graph.inputs, *(x for step in graph.steps for x in step.outputs)]
    return tuple(x for x in in_order if x in needed - made)


def _ancestors(graph: Graph, tensors: Iterable[Tensor]) -> tuple[Step, ...]:
    """Returns the steps that it takes to make the tensors."""
    needed, steps = set(tensors), []
    for step in reversed(graph.steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            steps.append(step)
    return tuple(reversed(steps))


def _shrink_frontier(graph: Graph, tail: set[Step], movable: set[Step]) -> None:
    """Moves cheap steps into the tail where that makes the frontier smaller.

    Such a step may also stay in the trunk, where that has a use for its output.
    """
    maker = {x: step for step in graph.steps for x in step.outputs}
    while True:
        frontier = _frontier(graph, tail)
        moves: dict[Tensor, set[Step]] = {}  # by the tensor that is to be stored instead
        for tensor in frontier:
            path = set()
            step = maker.get(tensor)
            while step in movable and _is_cheap(step) and len(step.inputs) == 1:
                path.add(step)
                moves.setdefault(step.inputs[0], set()).update(path)
                step = maker.get(step.inputs[0])
        sizes = {source: _bytes(_frontier(graph, tail | path)) for source, path in moves.items()}
        best = min(sizes, key=sizes.__getitem__, default=None)
        if best is None or sizes[best] >= _bytes(frontier):
            return
        tail |= moves[best]


def _is_cheap(step: Step) -> bool:
    """Whether running the step takes no time beside a convolution."""
    layer = step.operation
    if isinstance(layer, (keras.Model, keras.layers.Wrapper)):
        return False
    scales = is_norm(layer) or isinstance(layer, keras.layers.Normalization)
    return scales or not getattr(layer, "weights", None)


def _bytes(tensors: Iterable[Tensor]) -> float:
    """Bytes that the tensors take for one example; infinite where a size isn't known."""
    if any(None in x.shape[1:] for x in tensors):
        return math.inf
    return sum(math.prod(_sizes(x)) * tf.as_dtype(x.dtype).size for x in tensors)


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    return tuple(size for size in tensor.shape[1:] if size is not None)
