"""Gradient checkpointing: blocks are computed once more in the backward pass instead of kept.

Of each block only what enters it is kept (Chen et al. 2016). It changes no number. Keras's
`RematScope` would: a layer that is computed once more in it draws other dropout masks, and batch
normalisation updates its statistics twice. Here each block is a pure function. Its arguments are
its weights, statistics and the states of its random generators; their new values are written back
once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras

from ftkeras.errors import UserError
from ftkeras.graph import (
    AttachMask,
    Graph,
    GraphModel,
    ReadMask,
    Step,
    Tensor,
    flatten,
    results_of,
    run_steps,
    values_of,
)
from ftkeras.keras_internals import attach, detach, flat_layers, seed_generators, unrounded
from ftkeras.phases.selectors import Weights

if TYPE_CHECKING:
    from ftkeras.phases.plan import Plan


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Calls that follow each other in a graph.

    Args:
        steps: The calls.
        block: The block that they are; None if their outputs are kept as usual.
        inputs: What the calls take from before.
        outputs: What calls after them take, or the whole graph puts out.
    """

    steps: tuple[Step, ...]
    block: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def stretches(graph: Graph, weights: Weights) -> list[Stretch]:
    """Divides a graph into blocks that are computed once more, and the rest.

    The last block and the head are kept: the backward pass needs them first. So is a block that
    takes whole numbers alone (embeddings), and one that adds to the loss.

    Args:
        graph: The model's calls, or those of its tail.
        weights: What `weights_of` returned for the model: they name the blocks.
    """
    order = {name: number for number, name in enumerate(weights.blocks)}
    block_of = {id(w.layer): order[w.block] for w in weights.all if w.block is not None}
    groups: list[tuple[int, list[Step]]] = []
    now = -1
    for step in graph.steps:
        now = max([now, *(block_of[id(x)] for x in _layers_of(step) if id(x) in block_of)])
        if not groups or groups[-1][0] != now:
            groups.append((now, []))
        groups[-1][1].append(step)
    last = max((number for number, _ in groups), default=-1)
    made = [
        (weights.blocks[number] if 0 <= number < last else None, steps) for number, steps in groups
    ]
    return list(_bound(made, graph))


def _bound(groups: Sequence[tuple[str | None, Sequence[Step]]], graph: Graph) -> Iterable[Stretch]:
    for index, (block, steps) in enumerate(groups):
        inside = {x for step in steps for x in step.outputs}
        needed = {x for _, later in groups[index + 1 :] for step in later for x in step.inputs}
        needed.update(graph.outputs)
        inputs = dict.fromkeys(x for step in steps for x in step.inputs if x not in inside)
        outputs = tuple(x for step in steps for x in step.outputs if x in needed)
        adds = any(part.activity_regularizer for step in steps for part in _layers_of(step))
        again = not adds and any(is_float(x) for x in inputs)
        yield Stretch(tuple(steps), block if again else None, tuple(inputs), outputs)


def is_float(tensor: Tensor) -> bool:
    """Whether a gradient can flow into a tensor."""
    return "float" in tensor.dtype


def gradient_flows(graph: Graph, trained: Collection[int]) -> set[Step]:
    """Returns the calls that the backward pass visits.

    Args:
        graph: The calls.
        trained: The weights that train, by id of their variable.
    """
    reached: set[Tensor] = set()
    steps = set()
    for step in graph.steps:
        own = any(id(x) in trained for part in _layers_of(step) for x in part.variables)
        if own or not reached.isdisjoint(step.inputs):
            steps.add(step)
            reached.update(x for x in step.outputs if is_float(x))
    return steps


def _layers_of(step: Step) -> list[keras.layers.Layer]:
    is_layer = isinstance(step.operation, keras.layers.Layer)
    return flat_layers(step.operation) if is_layer else []


def check_checkpointing(model: keras.Model, weights: Weights) -> None:
    """Refuses models whose blocks cannot be computed once more.

    Raises:
        UserError: The model is not functional, or no block of it could be.
    """
    graph = flatten(model)
    why = "the model is not functional" if graph is None else ""
    if graph is not None and not any(part.block for part in stretches(graph, weights)):
        why = "the backbone has no block before its last one that takes more than whole numbers"
    if why:
        raise UserError(f"training.gradient_checkpointing: {why}. Leave it out.")


@contextmanager
def checkpointed(model: keras.Model, plan: Plan) -> Iterator[None]:
    """Within this block, training steps of the model are computed with gradient checkpointing.

    Nothing is left of it afterwards, in the model or in what is saved. Without
    `plan.checkpointing` nothing happens.

    Args:
        model: The whole model, or its tail on a stored trunk.
        plan: The plan of the whole model.
    """
    graph = model.graph if isinstance(model, GraphModel) else flatten(model)
    if not plan.checkpointing or graph is None:
        yield
        return
    parts, plain = stretches(graph, plan.weights), model.call

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training:
            return plain(inputs, training=training, mask=mask)
        values = values_of(graph, inputs, mask)
        for part in parts:
            if part.block is None or not _trains(part):
                run_steps(part.steps, values, training)
            else:
                _run_pure(part, values)
        return results_of(graph, values)

    attach(model, "call", call)
    try:
        yield
    finally:
        detach(model, "call")


def _trains(part: Stretch) -> bool:
    return any(x.trainable for layer in _layers(part) for x in layer.variables)


def _layers(part: Stretch) -> list[keras.layers.Layer]:
    return list(dict.fromkeys(layer for step in part.steps for layer in _layers_of(step)))


def _masks(tensors: Iterable[Tensor], values: Mapping[Tensor, Any]) -> dict[Tensor, Any]:
    """Returns the Keras masks of those tensors that have one."""
    return {x: mask for x in tensors if (mask := ReadMask()(values[x])) is not None}


def _run_pure(part: Stretch, values: dict[Tensor, Any]) -> None:
    """Runs a stretch as a function of tensors alone, which `keras.remat` may run twice."""
    layers = _layers(part)
    weights = {id(x): x for layer in layers for x in layer.variables}
    weights |= {id(x.state): x.state for layer in layers for x in seed_generators(layer)}
    learned = [x for x in weights.values() if x.trainable]
    fixed = [(x, unrounded(x)) for x in weights.values() if not x.trainable]
    flowing = [x for x in part.inputs if is_float(x)]
    results = [x for x in part.outputs if is_float(x)]
    entering = _masks(flowing, values)
    leaving: dict[Tensor, Any] = {}
    updates: list[tuple[keras.Variable, Any]] = []
    runs: list[bool] = []  # one more for each: the second one is the backward pass

    def run(*given: Any) -> list[Any]:
        state = [*zip(learned, given[len(flowing) :], strict=True), *fixed]
        inside = {**values, **dict(zip(flowing, given, strict=False))}
        with keras.StatelessScope(state_mapping=state) as scope:
            for x, mask in entering.items():
                inside[x] = AttachMask()([inside[x], mask])
            run_steps(part.steps, inside, True)
        runs.append(True)
        if len(runs) == 1:
            updates.extend((x, scope.get_current_value(x)) for x, _ in fixed)
            leaving.update(_masks(results, inside))
            values.update({x: inside[x] for x in part.outputs if not is_float(x)})
        return [inside[x] for x in results]

    made = keras.remat(run)(*(values[x] for x in flowing), *map(unrounded, learned))
    for x, value in zip(results, keras.tree.flatten(made), strict=True):
        values[x] = AttachMask()([value, leaving[x]]) if x in leaving else value
    for (variable, after), (_, before) in zip(updates, fixed, strict=True):
        if after is not before:
            variable.assign(after)
