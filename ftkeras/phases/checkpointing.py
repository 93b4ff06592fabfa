"""Which stretches of a network are computed once more in the backward pass instead of kept.

That is gradient checkpointing (Chen et al. 2016): of each block only what enters it is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import keras

from ftkeras.graph import Graph, Step, Tensor
from ftkeras.keras_internals import flat_layers
from ftkeras.phases.selectors import Weights


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
