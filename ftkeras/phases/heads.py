"""What the head of a model is: its last layers, and the dropout that no block depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras

from ftkeras.backbones import Block
from ftkeras.backbones.blocks import leaf_layers
from ftkeras.errors import UserError
from ftkeras.graph import Graph, Tensor, flatten
from ftkeras.keras_internals import flat_layers, variables_inside


def blocks_or_layers(model: keras.Model, blocks: Sequence[Block] | None) -> Sequence[Block]:
    """Returns the blocks; if there are none, one for each weighted layer outside the head.

    The head is then the weighted layers that no other follows on the way to an output.

    Raises:
        UserError: The model has several outputs, and nothing says which layers lead to which.
    """
    if blocks is not None:
        return blocks
    head = _last_layers(model)
    layers = [layer for layer in _weighted_layers(model) if layer not in head]
    return [Block(layer.name, (layer,)) for layer in layers]


def head_dropouts(model: keras.Model, blocks: Sequence[Block]) -> tuple[keras.layers.Dropout, ...]:
    """Returns the dropout layers that no block depends on, however they are nested.

    If the model isn't functional, the order of its layers is unknown. Then these are the dropout
    layers outside of the blocks, and outside of each layer or nested model that holds a block.

    Args:
        model: Any built Keras model.
        blocks: Its blocks.
    """
    inside = {part for block in blocks for layer in block.layers for part in flat_layers(layer)}
    graph = flatten(model)
    if graph is not None:
        parts = _after(graph, inside)
    else:
        parts = [layer for layer in model.layers if inside.isdisjoint(flat_layers(layer))]
    found = (part for layer in parts for part in flat_layers(layer))
    return tuple(dict.fromkeys(x for x in found if isinstance(x, keras.layers.Dropout)))


def _after(graph: Graph, inside: set[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """Returns the layers that are not `inside` and that no layer `inside` depends on."""
    needed: set[Tensor] = set()
    before: set[keras.layers.Layer] = set()
    for step in reversed(graph.steps):
        layer = step.operation
        is_inside = isinstance(layer, keras.layers.Layer) and not inside.isdisjoint(
            flat_layers(layer)
        )
        if is_inside or not needed.isdisjoint(step.outputs):
            needed.update(step.inputs)
            before.add(layer)
    return [layer for layer in graph.layers if layer not in before]


def _last_layers(model: keras.Model) -> list[keras.layers.Layer]:
    graph = flatten(model)
    if graph is None:
        losses = getattr(model, "loss", None)
        if isinstance(losses, (dict, list, tuple)) and len(losses) > 1:
            raise UserError(
                "blocks: the model has several losses and is not functional, so its layers do not "
                "show which are the heads. Give blocks=; the layers outside them are the head."
            )
        return _weighted_layers(model)[-1:]
    last = (layer for output in graph.outputs for layer in _ends(graph, output))
    opened = (_last_layers(x) if isinstance(x, keras.Model) else [x] for x in last)
    return list(dict.fromkeys(layer for layers in opened for layer in layers))


def _ends(graph: Graph, output: Tensor) -> Iterator[keras.layers.Layer]:
    """Yields the weighted layers that no other follows on the way to an output."""
    followed = {output: False}  # by tensor on the way
    for step in reversed(graph.steps):
        later = [followed[tensor] for tensor in step.outputs if tensor in followed]
        if not later:
            continue
        weighted = isinstance(step.operation, keras.layers.Layer) and _has_weights(step.operation)
        if weighted and not any(later):
            yield step.operation
        for tensor in step.inputs:
            followed[tensor] = followed.get(tensor, False) or weighted or any(later)


def _weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers that hold weights that were made to train, with nested models opened."""
    return [layer for layer in leaf_layers(model) if _has_weights(layer)]


def _has_weights(layer: keras.layers.Layer) -> bool:
    return any(own.trains for own in variables_inside(layer))
