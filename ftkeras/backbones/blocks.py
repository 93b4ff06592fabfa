"""Groups layers into blocks, by layer names, which no other module reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import keras

from ftkeras.backbones.backbone import Block
from ftkeras.backbones.catalog import Family
from ftkeras.graph import stacked

NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)
"""The layers that normalise activations with a learned scale and offset."""

_NORMALIZATION = (*NORMS, keras.layers.Normalization)


def leaf_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the model's layers in graph order, with nested models opened, each layer once."""
    leaves: dict[keras.layers.Layer, None] = {}
    for layer in model.layers:
        inner = leaf_layers(layer) if isinstance(layer, keras.Model) else [layer]
        leaves.update(dict.fromkeys(inner))
    return list(leaves)


def _parts(model: keras.Model) -> list[tuple[str, keras.layers.Layer]]:
    """Returns the leaf layers with names; a stack is replaced by its layers.

    The name of a layer in a stack begins with that of the stack, and a slash.
    """

    def opened(layer: keras.layers.Layer, name: str) -> list[tuple[str, keras.layers.Layer]]:
        inside = [part for x in stacked(layer) for part in opened(x, f"{name}/{x.name}")]
        return inside or [(name, layer)]

    return [part for layer in leaf_layers(model) for part in opened(layer, layer.name)]


def layer_digests(layers: Sequence[keras.layers.Layer]) -> list[str]:
    """Returns a digest of the architecture so far, after each weighted layer.

    A digest covers the classes and names of the weighted layers so far. Numbers at the end of names
    are left out, because Keras counts some of them per process. Widths are left out, so the same
    architecture with other widths has the same digest.

    Args:
        layers: Layers in graph order, with nested models opened.
    """
    so_far, digests = hashlib.blake2b(digest_size=4), []
    for layer in layers:
        if layer.weights:
            name = re.sub(r"_?\d+$", "", layer.name)
            so_far.update(f"{type(layer).__name__} {name}\n".encode())
            digests.append(so_far.hexdigest())
    return digests


def find_blocks(model: keras.Model, family: Family) -> tuple[Block, ...]:
    """Groups the weighted layers of a model of a known family, from input to output.

    Args:
        model: A model of Keras Applications or of keras-hub, without top.
        family: The family, whose patterns name the blocks.

    Example:
        >>> [block.name for block in find_blocks(keras.applications.VGG16(
        ...     include_top=False, weights=None), catalog.VGG)]
        ['block1', 'block2', 'block3', 'block4', 'block5']
    """
    parts = _parts(model)
    names = _named_by_ends(parts, family) if family.ends else _named_by_begins(parts, family)
    members: dict[str, list[keras.layers.Layer]] = {}
    for name, (_, layer) in zip(names, parts, strict=True):
        if layer.weights:
            members.setdefault(name, []).append(layer)
    return tuple(Block(name, tuple(group)) for name, group in members.items())


def within(model: keras.Model, groups: Sequence[Block]) -> tuple[Block, ...]:
    """Returns the blocks with those of their layers that a model has."""
    kept = set(leaf_layers(model))
    left = (Block(b.name, tuple(layer for layer in b.layers if layer in kept)) for b in groups)
    return tuple(block for block in left if block.layers)


def layer_blocks(model: keras.Model) -> tuple[Block, ...]:
    """Groups the weighted layers of any model: a block per layer, with the normalisations after it.

    Normalisations before the first layer join its block, so that no block is only a normalisation.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="a"),
        ...     keras.layers.BatchNormalization(), keras.layers.Conv2D(4, 3, name="b")])
        >>> [(block.name, len(block.layers)) for block in layer_blocks(model)]
        [('a', 2), ('b', 1)]
    """
    groups: list[list[keras.layers.Layer]] = [[]]
    for layer in leaf_layers(model):
        if not layer.weights:
            continue
        if not isinstance(layer, _NORMALIZATION) and _core(groups[-1]) is not None:
            groups.append([])
        groups[-1].append(layer)
    return tuple(Block((_core(group) or group[0]).name, tuple(group)) for group in groups if group)


def _core(group: Sequence[keras.layers.Layer]) -> keras.layers.Layer | None:
    return next((layer for layer in group if not isinstance(layer, _NORMALIZATION)), None)


def _named_by_begins(parts: Sequence[tuple[str, keras.layers.Layer]], family: Family) -> list[str]:
    names, current, count = [], "stem", 0
    for own, layer in parts:
        found = _match(own, family.begins) if layer.weights else None  # others may match by chance
        if found and "#" in found:
            found, count = found.replace("#", str(count)), count + 1
        current = found or current
        names.append(current)
    return names


def _named_by_ends(parts: Sequence[tuple[str, keras.layers.Layer]], family: Family) -> list[str]:
    ends = [_match(own, family.ends) for own, _ in parts]
    last = (name for name in reversed(ends) if name)
    current = next(last, "stem")  # layers after the last end join its block
    names = []
    for name in reversed(ends):
        current = name or current
        names.append(current)
    names.reverse()
    stem = [i for i, (_, layer) in enumerate(parts) if layer.weights][: family.stem]
    return ["stem" if i in stem else name for i, name in enumerate(names)]


def _match(name: str, patterns: Sequence[tuple[str, str]]) -> str | None:
    for pattern, block in patterns:
        match = re.match(pattern, name)
        if match:
            return match.expand(block)
    return None
