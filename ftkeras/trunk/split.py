"""Where the frozen part of a network ends: trunk, frontier and tail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ftkeras.graph import Graph, GraphModel, Step, Tensor, attached, flatten
from ftkeras.keras_internals import (
    clear_losses,
    flat_layers,
    is_built_in,
    is_stateful,
    own_variables,
    seed_generators,
)
from ftkeras.phases.selectors import is_norm
from ftkeras.trunk.cost import is_table
from ftkeras.trunk.masks import Masks, find_masks

# Side effects that a step may have and still return the same every time.
_READS = {"Placeholder", "ReadVariableOp", "VarHandleOp"}
# Calls of functions, whose operations are checked separately. Keras makes one for a grouped
# convolution.
_READS |= {"PartitionedCall", "StatefulPartitionedCall"}
_RECURRENT = (
    *(keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN),
    *(keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell),
)
_MASK = "padding_mask"  # keras-hub's name for the input that marks padding
_NOTHING = "no expensive layer is frozen"


@dataclass(frozen=True)
class Spec:
    """One tensor of the frontier, per example.

    Args:
        shape: Its shape, without the batch.
        dtype: Its type's name, as the layers give it.
        varies: Whether the first size is a maximum; shorter examples are padded with 0.
            tells: Whether it is 0 only in padding, so that it shows the length of an example.
    """

    shape: tuple[int, ...]
    dtype: str
    varies: bool = False
    tells: bool = False

    @property
    def size(self) -> int:
        """The count of its numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TrunkSplit:
    """A model in two parts that share its layers: `tail(trunk(x))` is `model(x)`.

    Args:
        trunk: From the model's input to the frontier: one tensor, or a tuple of several.
        tail: From the frontier to the model's output; all that trains is in it.
        frontier: The tensors between the two, then the Keras masks that the tail's layers read.
        silenced: The layers in the trunk that are random in training, and run as at inference.
    """

    trunk: GraphModel
    tail: GraphModel
    frontier: tuple[Spec, ...]
    silenced: tuple[str, ...] = ()


def split_model(
    model: keras.Model, *, silence: bool = False, graph: Graph | None = None
) -> TrunkSplit | None:
    """Divides a model by its `trainable` flags into a part that stays the same and the rest.

    A call belongs to the trunk if three conditions hold. None of its layer's weights train. It
    returns the same for an example every time, also in training. All its inputs come from the
    trunk. Dropout, stochastic depth, random layers and batch norm that updates its statistics
    therefore end the trunk. The last cheap steps (padding, activations, normalisation,
    embeddings) go to the tail if that makes the frontier smaller. A Keras mask that a layer of the
    tail reads is part of the frontier.

    The layers are shared, not copied, and not changed: the model can be split again for each phase.

    Args:
        model: A functional model; nested functional models are opened. Its inputs may have names.
        silence: Take frozen layers that are random in training into the trunk; they run as at
            inference there. They are dropout, stochastic depth, and layers that contain them, such
            as a transformer block.
        graph: The model's graph from `flatten`; several splits of one graph can be compared.

    Returns:
        None if nothing is worth storing; `split_or_reason` says why.

    Example:
        >>> inputs = keras.Input((8, 8, 3))
        >>> x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
        >>> x = keras.layers.GlobalAveragePooling2D()(x)
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(x))
        >>> model.get_layer("conv").trainable = False
        >>> split_model(model).frontier
        (Spec(shape=(4,), dtype='float32'),)
    """
    split = split_or_reason(model, silence=silence, graph=graph)
    return None if isinstance(split, str) else split


def split_or_reason(
    model: keras.Model,
    *,
    silence: bool = False,
    graph: Graph | None = None,
    length: int | None = None,
    fresh: Sequence[str] = (),
) -> TrunkSplit | str:
    """Returns what `split_model` returns, or a short reason why nothing is worth storing.

    Takes the arguments of `split_model`, and `length`, the largest length of sequences whose
        length varies; without it, they are not stored. `fresh` names inputs that are new each time:
        the steps that depend on them are not in the trunk.
    """
    graph = graph or flatten(model)
    if graph is None:
        return "the model is not functional"
    if not any(v.trainable for v in model.variables):
        return "nothing trains"
    steady, movable = _find_steady(graph, silence, fresh)
    tail = {step for step in graph.steps if step not in steady}
    _shrink_frontier(graph, tail, movable, length)
    frontier = _frontier(graph, tail)
    if not tail or all(map(_is_cheap, _ancestors(graph, frontier))):
        return _NOTHING if silence else _random_layer(graph) or _NOTHING
    masks = find_masks(graph)
    tail_graph = _tail_graph(graph, tail, frontier, masks)
    frontier = tail_graph.inputs
    for x in frontier:
        if x.shape[0] is not None or None in x.shape[(1 if length is None else 2) :]:
            return f"what crosses the split has no fixed size: {x.shape}"
    trunk_steps = _ancestors(graph, frontier)
    return TrunkSplit(
        trunk=_trunk_model(tuple(masks.with_readers(trunk_steps)), graph, frontier),
        tail=GraphModel(tail_graph, "tail"),
        frontier=_specs(frontier, graph, masks, length),
        silenced=_names(step for step in trunk_steps if step not in movable),
    )


def _specs(
    frontier: tuple[Tensor, ...], graph: Graph, masks: Masks, length: int | None
) -> tuple[Spec, ...]:
    telling = set(masks.of.values()) | _read_as_masked(graph)
    named = zip(graph.inputs, graph.names, strict=False)  # a single input has no name
    telling |= {x for x, name in named if name == _MASK}
    return tuple(
        Spec(_sizes(x, length), x.dtype, varies, varies and x in telling)
        for x in frontier
        for varies in [None in x.shape[1:]]
    )


def _read_as_masked(graph: Graph) -> set[Tensor]:
    """Returns the integers that an embedding reads which treats 0 as padding."""
    found: set[Tensor] = set()
    for step in reversed(graph.steps):
        layer = step.operation
        passes = not getattr(layer, "weights", ()) and len(step.inputs) == 1
        if getattr(layer, "mask_zero", False) or (passes and found.intersection(step.outputs)):
            found.update(x for x in step.inputs if "int" in x.dtype)
    return found


def _trunk_model(steps: tuple[Step, ...], graph: Graph, frontier: tuple[Tensor, ...]) -> GraphModel:
    structure: Any = frontier if len(frontier) > 1 else frontier[0]
    return GraphModel(Graph(steps, graph.inputs, frontier, structure, graph.names), "trunk")


def _tail_graph(graph: Graph, tail: set[Step], frontier: tuple[Tensor, ...], masks: Masks) -> Graph:
    """Returns the calls of the tail, whose inputs include the masks that its layers read."""
    steps = [step for step in graph.steps if step in tail]
    callers = (*steps, None)
    masked = [x for x in frontier if x in masks.of and any((s, x) in masks.seen for s in callers)]
    attach = {x: attached(x, masks.of[x]) for x in masked}
    carriers = {x: step.outputs[0] for x, step in attach.items()}

    def seen(step: Step | None, tensors: Iterable[Tensor]) -> dict[Tensor, Tensor]:
        return {x: carriers[x] for x in tensors if x in carriers and (step, x) in masks.seen}

    made = {x for step in steps for x in step.outputs}
    from_trunk = [masks.of[x] for x in masked if masks.of[x] not in made]
    calls = [attach[x] for x in masked if masks.of[x] in from_trunk]
    for step in steps:
        calls.append(step.on(seen(step, step.inputs)))
        calls += [attach[x] for x in masked if masks.of[x] in step.outputs]
    at_end = seen(None, graph.outputs)
    return Graph(
        tuple(calls),
        tuple(dict.fromkeys((*frontier, *from_trunk))),
        tuple(at_end.get(x, x) for x in graph.outputs),
        graph.structure,
    )


def is_within(split: TrunkSplit, other: TrunkSplit) -> bool:
    """Whether a split's trunk is a part of another's; both are of one graph."""
    return set(split.trunk.graph.steps) <= set(other.trunk.graph.steps)


def is_alike(split: TrunkSplit, other: TrunkSplit) -> bool:
    """Whether two splits of one graph divide it at the same places."""
    one, two = split.trunk.graph, other.trunk.graph
    return one.outputs == two.outputs and set(one.steps) == set(two.steps)


def joined_trunk(splits: Sequence[TrunkSplit]) -> tuple[GraphModel, list[list[int]]]:
    """Returns a model that gives the frontiers of several splits at once.

    Args:
        splits: Splits of one graph; the first trunk contains the others.

    Returns:
        The model, and for each split the indices of the outputs that are its frontier.
    """
    trunk = splits[0].trunk.graph
    tensors = tuple(dict.fromkeys(x for split in splits for x in split.trunk.graph.outputs))
    indices = [[tensors.index(x) for x in split.trunk.graph.outputs] for split in splits]
    return _trunk_model(trunk.steps, trunk, tensors), indices


# --------------------------------------------------------------- what may be in the trunk


def _random_layer(graph: Graph) -> str:
    """Returns which random frozen layer ends the trunk before expensive ones, or ""."""
    with_silence, movable = _find_steady(graph, silence=True)
    if all(map(_is_cheap, with_silence)):
        return ""
    for name in _names(s for s in graph.steps if s in with_silence and s not in movable):
        return f"{name} is frozen, but random in training (trunk.silence runs it as at inference)"
    return ""


def _names(steps: Iterable[Step]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(step.operation.name for step in steps))


def _find_steady(
    graph: Graph, silence: bool, fresh: Sequence[str] = ()
) -> tuple[set[Step], set[Step]]:
    """Returns the steps that may be in the trunk, and those that may also move to the tail."""
    known: dict[keras.Operation, bool] = {}
    names = graph.names or ("",) * len(graph.inputs)
    constant = {x for x, name in zip(graph.inputs, names, strict=True) if name not in fresh}
    steady, movable = set(), set()
    for step in graph.steps:
        if not constant.issuperset(step.inputs) or _trains(step.operation):
            continue
        if step.operation not in known:
            known[step.operation] = _is_steady(step, training=True)
        if known[step.operation] or (silence and _is_quiet(step)):
            steady.add(step)
            constant.update(step.outputs)
        if known[step.operation]:
            movable.add(step)
    return steady, movable


def _trains(operation: keras.Operation) -> bool:
    # The flag of each weight decides: a batch norm's offset may train while its layer is frozen.
    return any(variable.trainable for variable in getattr(operation, "variables", ()))


def _is_steady(step: Step, training: bool) -> bool:
    """Whether the step neither draws random numbers nor changes anything when it runs."""
    if not isinstance(step.operation, keras.layers.Layer):
        # An operation of `keras.ops` is a pure function, unless it calls a user's function; a
        # `keras.Function` has layers inside, which it does not list.
        values = [*vars(step.operation).values(), *keras.tree.flatten((step.args, step.kwargs))]
        return not (isinstance(step.operation, keras.Function) or any(map(callable, values)))
    if type(step.operation) is keras.layers.Dropout and training and step.operation.rate > 0:
        return False  # saves tracing, 55 times in EfficientNetB7
    parts = flat_layers(step.operation)
    if any(part.activity_regularizer is not None for part in parts):
        return False  # its loss would be lost
    if all(map(_is_known_steady, parts)):
        return True
    try:
        return not _changes_something(step, training)
    finally:
        clear_losses(step.operation)


def _is_quiet(step: Step) -> bool:
    """Whether a frozen step is steady at inference and only draws random numbers in training."""
    if not isinstance(step.operation, keras.layers.Layer):
        return False
    parts = flat_layers(step.operation)
    if any(part.activity_regularizer is not None or _keeps_state(part) for part in parts):
        return False  # it would change in training, or its loss would be lost
    known = all(is_built_in(x) and not isinstance(x, keras.layers.Lambda) for x in parts)
    return known or _is_steady(step, training=False)


def _keeps_state(layer: keras.layers.Layer) -> bool:
    """Whether a layer has variables of its own that training changes without a gradient."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return bool(layer.trainable)
    return bool(own_variables(layer)[1]) and not isinstance(layer, keras.layers.Normalization)


def _is_known_steady(layer: keras.layers.Layer) -> bool:
    own = getattr(layer, "is_steady", False)  # layers of this package may declare it
    if not (is_built_in(layer) or own) or isinstance(layer, keras.layers.Lambda):
        return False
    return not _keeps_state(layer) and not (seed_generators(layer) and _draws(layer))


def _draws(layer: keras.layers.Layer) -> bool:
    """Whether a Keras layer that can draw random numbers does so; recurrent ones always can."""
    rates = isinstance(layer, _RECURRENT) and (layer.dropout, layer.recurrent_dropout)
    return rates != (0, 0)


def _changes_something(step: Step, training: bool) -> bool:
    """Traces the step and checks the operations of its graph."""
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in step.inputs]

    @tf.autograph.experimental.do_not_convert
    def run(*values: tf.Tensor) -> list[tf.Tensor]:
        return step.call(dict(zip(step.inputs, values, strict=True)), training)

    graph = tf.function(run, autograph=False).get_concrete_function(*specs).graph.as_graph_def()
    functions = {function.signature.name for function in graph.library.function}
    parts = (graph.node, *(function.node_def for function in graph.library.function))
    types = {node.op for part in parts for node in part} - functions
    changing = set(filter(is_stateful, types - _READS))
    return bool(changing or any("Random" in kind for kind in types) or step.operation.losses)


# ------------------------------------------------------------------------ where to cut


def _frontier(graph: Graph, tail: set[Step]) -> tuple[Tensor, ...]:
    """Returns the tensors that the tail (and the model's output) needs from outside, in order."""
    made = {x for step in tail for x in step.outputs}
    needed = {x for step in tail for x in step.inputs} | set(graph.outputs)
    in_order = [*graph.inputs, *(x for step in graph.steps for x in step.outputs)]
    return tuple(x for x in in_order if x in needed - made)


def _ancestors(graph: Graph, tensors: Iterable[Tensor]) -> tuple[Step, ...]:
    """Returns the steps that make the tensors."""
    needed, steps = set(tensors), []
    for step in reversed(graph.steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            steps.append(step)
    return tuple(reversed(steps))


def _shrink_frontier(graph: Graph, tail: set[Step], movable: set[Step], length: int | None) -> None:
    """Moves cheap steps into the tail if that makes the frontier smaller.

    Such a step may also stay in the trunk, if another step there reads its output.
    """
    maker = {x: step for step in graph.steps for x in step.outputs}
    while True:
        frontier = _frontier(graph, tail)
        moves: dict[Tensor, set[Step]] = {}  # by the tensor to store instead
        for tensor in frontier:
            path = set()
            step = maker.get(tensor)
            while step in movable and _is_cheap(step) and len(step.inputs) == 1:
                path.add(step)
                moves.setdefault(step.inputs[0], set()).update(path)
                step = maker.get(step.inputs[0])
        sizes = {
            source: _bytes(_frontier(graph, tail | path), length) for source, path in moves.items()
        }
        best = min(sizes, key=sizes.__getitem__, default=None)
        if best is None or sizes[best] >= _bytes(frontier, length):
            return
        tail |= moves[best]


def _is_cheap(step: Step) -> bool:
    """Whether the step's time is negligible beside a convolution or a product of matrices."""
    layer = step.operation
    if isinstance(layer, (keras.Model, keras.layers.Wrapper)):
        return False
    scales = is_norm(layer) or isinstance(layer, keras.layers.Normalization)
    return scales or all(map(is_table, getattr(layer, "weights", ())))


def _bytes(tensors: Iterable[Tensor], length: int | None) -> float:
    """Bytes of the tensors for one example; infinite if a size isn't known."""
    if any(None in x.shape[(1 if length is None else 2) :] for x in tensors):
        return math.inf
    return sum(math.prod(_sizes(x, length)) * tf.as_dtype(x.dtype).size for x in tensors)


def _sizes(tensor: Tensor, length: int | None) -> tuple[int, ...]:
    return tuple(size or length or 0 for size in tensor.shape[1:])
