"""Selectors: the names by which a phase says what trains.

    head            the layers that are not in any block
    all, none       every weight that can train; nothing
    blocks[-2:]     blocks by Python index or slice, from input to output
    block:NAME      one block by its name
    re:PATTERN      weights whose path the regular expression is found in
    norm            scale and offset of every normalisation layer
    bias            every bias and offset (BitFit: Zaken et al. 2022)
    lora            the adapters (LoRA: Hu et al. 2021)
    base            the weights under the adapters, which no other selector names
    TOWER/SELECTOR  of one of several towers: images/blocks[-2:], texts/norm

A selector works on weights, not on layers: that is what an optimizer trains.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from ftkeras.backbones import Block
from ftkeras.backbones.blocks import NORMS
from ftkeras.console import counted
from ftkeras.errors import UserError, did_you_mean
from ftkeras.keras_internals import variables_inside
from ftkeras.model.lora import is_adapter, is_base
from ftkeras.phases.heads import blocks_or_layers
from ftkeras.phases.own_flags import frozen_by_owner

_INDEX = re.compile(r"blocks\[(-?\d+)\]")
_SLICE = re.compile(r"blocks\[(-?\d*):(-?\d*)(?::(-?\d*))?\]")


@dataclass(frozen=True)
class Weight:
    """A weight that can train, and where it stands.

    Attributes:
        variable: The Keras variable.
        path: The path of its layer inside the model, and its own name: `MobileNetV2/Conv1/kernel`.
        layer: The layer that owns it.
        block: The name of its block; None in the head.
        is_base: Whether it has an adapter, so that only the selector `base` names it.
    """

    variable: keras.Variable
    path: str
    layer: keras.layers.Layer
    block: str | None
    is_base: bool = False

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        size = 1
        for dimension in self.variable.shape:
            size *= dimension
        return size

    @property
    def is_adapter(self) -> bool:
        """Whether it is a part of an adapter."""
        return is_adapter(self.variable, self.layer)


@dataclass(frozen=True)
class Weights:
    """Every weight of a model that can train, in graph order, and the model's blocks."""

    all: tuple[Weight, ...]
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        twice = {name for name in self.blocks if self.blocks.count(name) > 1}
        if twice:
            raise UserError(
                f"blocks: the name {sorted(twice)[0]!r} is given twice; names must differ."
            )


def weights_of(model: keras.Model, blocks: Sequence[Block] | None = None) -> Weights:
    """Returns the weights that phases can train, each with its path and block.

    A weight that its owner froze by its own flag (`layer.kernel.trainable = False`) is left out.
    `layer.trainable = False` leaves nothing out. The base of a LoRA layer is marked: only the
    selector `base` names it.

    Args:
        model: Any built Keras model.
        blocks: Its blocks from input to output, usually `backbone.blocks`. Left out, every layer
            that holds weights is a block; nested models are opened. The last weighted layer on the
            way to each output is the head.

    Raises:
        UserError: The model isn't built, a block holds a layer that isn't in the model, or
            `blocks` is left out and the heads cannot be seen.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"),
        ...                           keras.layers.Dense(2, name="out")])
        >>> [(weight.path, weight.block) for weight in weights_of(model).all[::2]]
        [('hidden/kernel', 'hidden'), ('out/kernel', None)]
    """
    if not model.built:
        raise UserError("the model has no weights yet: call it once, or give it an Input, first.")
    blocks = blocks_or_layers(model, blocks)
    weights = _walk(model)
    block_of = {}
    for block in blocks:
        for layer in block.layers:
            inside = _walk(layer)
            if inside and not any(inside[0].variable is weight.variable for weight in weights):
                raise UserError(f"block {block.name!r}: layer {layer.name!r} is not in the model.")
            block_of.update({id(weight.variable): block.name for weight in inside})
    placed = tuple(
        dataclasses.replace(weight, block=block_of.get(id(weight.variable)), is_base=under)
        for weight in weights
        for under in [is_base(weight.variable, weight.layer)]
        if under or not frozen_by_owner(weight.variable, weight.layer)
    )
    return Weights(placed, tuple(block.name for block in blocks))


def select(weights: Weights, selectors: Sequence[str]) -> tuple[Weight, ...]:
    """Returns the weights that any of the selectors names, in graph order.

    Raises:
        UserError: A selector isn't understood or selects nothing; the message lists the choices.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"),
        ...                           keras.layers.Dense(2, name="out")])
        >>> [weight.path for weight in select(weights_of(model), ["head"])]
        ['out/kernel', 'out/bias']
    """
    if isinstance(selectors, str):
        selectors = [selectors]
    chosen: set[int] = set()
    for selector in selectors:
        part = _select_one(weights, selector)
        if not part and selector in ("lora", "base"):
            raise UserError(
                f"selector {selector!r} selects nothing: the model has no adapters. Add "
                "`lora: {}` to the config, or call ftkeras.add_lora first."
            )
        if not part and selector != "none":
            raise UserError(f"selector {selector!r} selects nothing. {choices(weights)}")
        chosen.update(id(weight.variable) for weight in part)
    return tuple(weight for weight in weights.all if id(weight.variable) in chosen)


def names_explicitly(selector: str) -> bool:
    """Whether a selector names weights one by one, rather than whole blocks or the head."""
    return selector in ("norm", "bias") or selector.startswith("re:")


def choices(weights: Weights) -> str:
    """Returns a sentence that says what can be selected."""
    names = ", ".join(weights.blocks)
    if len(names) > 240:
        names = f"{', '.join(weights.blocks[:3])} ... {', '.join(weights.blocks[-3:])}"
    return (
        f"Choices: head, all, none, norm, bias, lora, re:PATTERN, blocks[i] or blocks[i:j] over "
        f"{counted(len(weights.blocks), 'block')}, block:NAME with NAME one of: "
        f"{names or '(no blocks)'}."
    )


def is_norm(layer: keras.layers.Layer) -> bool:
    """Whether a layer normalises activations by learned scale and offset."""
    return isinstance(layer, NORMS)


def _of_tower(weights: Weights, tower: str) -> Weights:
    """Returns the weights and blocks of one of several towers; none if there is no such tower."""
    begins = f"{tower}/"
    return Weights(
        tuple(weight for weight in weights.all if weight.path.startswith(begins)),
        tuple(block for block in weights.blocks if block.startswith(begins)),
    )


def _select_one(weights: Weights, selector: str) -> list[Weight]:
    tower, _, rest = selector.partition("/")
    if rest and (part := _of_tower(weights, tower)).blocks:
        named = f"block:{tower}/{rest.removeprefix('block:')}"
        return _select_one(part, named if rest.startswith("block:") else rest)
    if selector == "base":
        return [weight for weight in weights.all if weight.is_base]
    weights = Weights(tuple(w for w in weights.all if not w.is_base), weights.blocks)
    if selector == "all":
        return list(weights.all)
    if selector == "none":
        return []
    if selector == "lora":
        return [weight for weight in weights.all if weight.is_adapter]
    if selector == "head":
        return [weight for weight in weights.all if weight.block is None]
    if selector == "norm":
        return [weight for weight in weights.all if is_norm(weight.layer)]
    if selector == "bias":
        return [weight for weight in weights.all if is_bias(weight)]
    if selector.startswith("re:"):
        return _by_pattern(weights, selector)
    names = _block_names(weights, selector)
    return [weight for weight in weights.all if weight.block in names]


def is_bias(weight: Weight) -> bool:
    """Whether a weight is added to activations, rather than multiplied with them."""
    return weight.path.rsplit("/", 1)[-1] in ("bias", "beta", "recurrent_bias")


def is_kernel(weight: Weight) -> bool:
    """Whether a weight multiplies activations, so that pulling it to zero makes a model simpler.

    Biases and normalisation do not, nor do weights that a model holds in none of its layers.
    """
    return not (is_bias(weight) or is_norm(weight.layer) or isinstance(weight.layer, keras.Model))


def _by_pattern(weights: Weights, selector: str) -> list[Weight]:
    try:
        pattern = re.compile(selector[3:])
    except re.error as error:
        raise UserError(f"selector {selector!r}: not a regular expression ({error}).") from None
    # In the layer's path too, so that `$` may end the layer's name.
    return [
        weight
        for weight in weights.all
        if pattern.search(weight.path) or pattern.search(weight.path.rsplit("/", 1)[0])
    ]


def _block_names(weights: Weights, selector: str) -> tuple[str, ...]:
    if selector.startswith("block:"):
        name = selector.removeprefix("block:")
        if name not in weights.blocks:
            guess = did_you_mean(name, weights.blocks)
            raise UserError(f"selector {selector!r}: no such block.{guess} {choices(weights)}")
        return (name,)
    if match := _INDEX.fullmatch(selector):
        index = int(match[1])
        if not -len(weights.blocks) <= index < len(weights.blocks):
            raise UserError(f"selector {selector!r} selects nothing. {choices(weights)}")
        return (weights.blocks[index],)
    if match := _SLICE.fullmatch(selector):
        start, stop, step = (int(part) if part else None for part in match.groups())
        if step == 0:
            raise UserError(f"selector {selector!r}: a slice's step cannot be zero.")
        return weights.blocks[start:stop:step]
    raise UserError(f"selector {selector!r} is not understood. {choices(weights)}")


def _walk(layer: keras.layers.Layer) -> list[Weight]:
    """Returns all weights of a layer that were made to train, in the order of its graph."""
    weights: dict[int, Weight] = {}
    for path, variable, owner, trains in variables_inside(layer, graph_order=True):
        if trains:  # a layer that is used twice counts once
            weights.setdefault(id(variable), Weight(variable, path, owner, None))
    return list(weights.values())
