"""Matches the layers of a weights file with those of a model, by name.

Freezing layers changes the order in which Keras writes weights, so order alone is no proof. Names
are, except automatic ones: `conv2d_7` was only the eighth of its class in one process. Such layers
are paired by their order, if the file has it, and by their numbers. If layers of equal shapes
could be exchanged, the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras

Signature = tuple[tuple[int, ...], ...]

# Keras's present names of weights, by earlier ones: Keras 1 put them after the layer's name.
_RENAMED = {"depthwise_kernel": "kernel", "variable": "gamma"}
_KERAS_1 = {
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
    "gamma": "gamma",
    "beta": "beta",
    "w": "kernel",
    "b": "bias",
}


class Mismatch(ValueError):
    """A file does not fit a model, or not unambiguously; one plain clause."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with weights, in a file or in a model.

    Args:
        names: Its possible names; the first is shown in messages.
        arrays: Its weights by their names within the layer; anything with a shape.
        kind: Its class as Keras counts it, such as conv2d; empty if unknown.
        place: The graph that it is part of, and its index there, at least among those of its
            class; None if unknown.
    """

    names: tuple[str, ...]
    arrays: Mapping[str, Any]
    kind: str = ""
    place: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def signature(self) -> Signature:
        """The shapes of its weights; layers of one signature could be exchanged unnoticed."""
        return tuple(sorted(tuple(array.shape) for array in self.arrays.values()))

    @property
    def number(self) -> int | None:
        """The 7 of conv2d_7 if Keras named the layer by counting its class, otherwise None."""
        split = (split_number(name, frozenset({self.kind})) for name in self.names)
        return next((number for kind, number in split if kind and kind == self.kind), None)


def match(wanted: Sequence[Layer], stored: Sequence[Layer]) -> list[Layer]:
    """Returns the stored layer for each wanted one.

    Args:
        wanted: The layers of a model, in graph order.
        stored: The layers of a file, which may hold more.

    Raises:
        Mismatch: A layer is missing, or several could be exchanged.
    """
    have, need = (sum(len(layer.arrays) for layer in layers) for layers in (stored, wanted))
    if have < need:
        raise Mismatch(f"it holds {have} arrays and {need} are needed.")
    chosen = _by_name(wanted, stored)
    by_name = bool(chosen)
    taken = {id(layer) for layer in chosen.values()}
    left = [layer for layer in stored if id(layer) not in taken]
    missing = [layer for layer in wanted if id(layer) not in chosen]
    for kind in dict.fromkeys(layer.kind for layer in missing):
        numbered = [one for one in left if one.kind == kind and one.number is not None]
        chosen |= _by_order([layer for layer in missing if layer.kind == kind], numbered)
    missing = [layer for layer in missing if id(layer) not in chosen]
    taken = {id(layer) for layer in chosen.values()}
    left = [layer for layer in left if id(layer) not in taken]
    # If a file has some of the chosen names, it lacks the layers of the others.
    chosen |= _by_shape([one for one in missing if one.number is not None or not by_name], left)
    for layer in missing:
        if id(layer) not in chosen:
            raise Mismatch(_lacks(layer, left))
    return [chosen[id(layer)] for layer in wanted]


def match_paths(wanted: Mapping[str, Layer], stored: Mapping[str, Layer]) -> list[Layer]:
    """Returns the stored layer for each wanted one by class and number, if there are no names.

    Args:
        wanted: The layers of a model by paths such as `layers/conv2d_1/`.
        stored: The layers of a file by such paths, in which the model may be nested.

    Raises:
        Mismatch: A layer is missing, or several could be exchanged.
    """
    first = next(iter(wanted), "")
    around = [path.removesuffix(first) for path in stored if path.endswith(first)] or [""]
    fitting = [
        base
        for base in around
        if all(
            base + path in stored and stored[base + path].signature == layer.signature
            for path, layer in wanted.items()
        )
    ]
    for path, layer in wanted.items():
        if not fitting:
            if around[0] + path not in stored:
                raise Mismatch(f"it lacks a layer {layer.name!r}.")
            pair(layer, stored[around[0] + path])
        elif len(fitting) > 1:
            raise _exchange(layer, [stored[base + path] for base in fitting])
    base = fitting[0]
    chosen = {id(stored[base + path]): layer for path, layer in wanted.items()}
    for path, layer in wanted.items():
        mine = stored[base + path]
        alike = [one for one in stored.values() if _class_in_graph(one) == _class_in_graph(mine)]
        if any(id(one) not in chosen and one.signature == mine.signature for one in alike):
            raise _exchange(layer, alike)
    return [stored[base + path] for path in wanted]


def _class_in_graph(layer: Layer) -> tuple[str, str]:
    return layer.place[0] if layer.place else "", layer.kind


def pair(wanted: Layer, stored: Layer) -> dict[str, Any]:
    """Returns the stored array for each weight of a layer, by the weight's name.

    Raises:
        Mismatch: The shapes or the number of the weights differ, or their names are ambiguous.
    """
    if len(stored.arrays) != len(wanted.arrays):
        raise Mismatch(
            f"its layer {stored.name!r} holds {len(stored.arrays)} arrays and {wanted.name!r} "
            f"needs {len(wanted.arrays)}."
        )
    if wanted.signature != stored.signature:
        raise Mismatch(_shapes_differ(wanted, stored))
    same = set(stored.arrays) == set(wanted.arrays)
    arrays = stored.arrays if same else _renamed(wanted, stored)
    if any(tuple(arrays[key].shape) != tuple(own.shape) for key, own in wanted.arrays.items()):
        raise Mismatch(_shapes_differ(wanted, stored))
    return {key: arrays[key] for key in wanted.arrays}


def _renamed(wanted: Layer, stored: Layer) -> Mapping[str, Any]:
    """Finds weights that have other names in other versions of Keras."""
    by_now = {_present_name(key): array for key, array in stored.arrays.items()}
    if set(by_now) == {_present_name(key) for key in wanted.arrays}:
        return {key: by_now[_present_name(key)] for key in wanted.arrays}
    by_shape = {tuple(array.shape): array for array in stored.arrays.values()}
    if len(by_shape) == len(stored.arrays):
        return {key: by_shape[tuple(array.shape)] for key, array in wanted.arrays.items()}
    raise Mismatch(
        f"its layer {stored.name!r} has the weights {', '.join(stored.arrays)}, but "
        f"{wanted.name!r} has {', '.join(wanted.arrays)}, and shapes do not tell which is which. "
        "Save it again with Keras 3, as a .keras file."
    )


def _present_name(key: str) -> str:
    parent, _, name = key.rpartition("/")
    name = re.sub(r"_\d+$", "", name).lower()  # `block1_conv1_W_1` is a W
    name = _RENAMED.get(name, name)
    name = next((new for old, new in _KERAS_1.items() if f"_{name}".endswith(f"_{old}")), name)
    return f"{parent}/{name}" if parent else name


def _by_name(wanted: Sequence[Layer], stored: Sequence[Layer]) -> dict[int, Layer]:
    """Pairs the layers whose names a person or an architecture chose."""
    named: dict[str, list[Layer]] = {}
    for layer in stored:
        for name in dict.fromkeys(map(_plain, layer.names)):
            named.setdefault(name, []).append(layer)
    chosen: dict[int, Layer] = {}
    owners: dict[int, Layer] = {}
    for layer in wanted:
        if layer.number is not None:
            continue
        found = named.get(_plain(layer.name), [])
        if len(found) > 1:
            found = [one for one in found if one.signature == layer.signature] or found
        if len(found) > 1:
            raise _exchange(layer, found)
        if found:
            if id(found[0]) in owners:
                raise _exchange(layer, found)
            owners[id(found[0])], chosen[id(layer)] = layer, found[0]
    return chosen


def _by_order(wanted: Sequence[Layer], stored: Sequence[Layer]) -> dict[int, Layer]:
    """Pairs layers of one class, which the file numbers, by their order or their numbers."""
    pairs: list[tuple[Layer, Layer]] = []
    ordered = _one_graph(wanted) and _one_graph(stored)
    numbered = all(layer.number is not None for layer in wanted)
    for signature in dict.fromkeys(layer.signature for layer in wanted):
        mine = [layer for layer in wanted if layer.signature == signature]
        theirs = [layer for layer in stored if layer.signature == signature]
        if len(theirs) < len(mine):
            continue  # it does not fit, as the caller will find
        if ordered:
            mine, theirs = sorted(mine, key=_place), sorted(theirs, key=_place)
        elif numbered:
            mine, theirs = sorted(mine, key=_number), sorted(theirs, key=_number)
        elif len(theirs) > 1:
            raise _exchange(mine[0], theirs)
        first = theirs[: len(mine)]
        # If there are too many layers, the first ones are right only if the numbers agree.
        same = numbered and list(map(_number, first)) == list(map(_number, mine))
        if len(theirs) > len(mine) and not same:
            raise _exchange(mine[0], theirs)
        pairs += zip(mine, first, strict=True)
    for known, rank in ((ordered, _place), (numbered, _number)):
        by_mine = sorted(pairs, key=lambda both: rank(both[0]))
        ranks = [rank(theirs) for _, theirs in by_mine]
        if known and ranks != sorted(ranks):
            raise _exchange(by_mine[0][0], [theirs for _, theirs in by_mine])
    return {id(mine): theirs for mine, theirs in pairs}


def _by_shape(wanted: Sequence[Layer], stored: Sequence[Layer]) -> dict[int, Layer]:
    """Pairs the layers whose shapes no other layer has."""
    chosen = {}
    for layer in wanted:
        mine = [one for one in wanted if one.signature == layer.signature]
        theirs = [one for one in stored if one.signature == layer.signature]
        if len(theirs) >= len(mine):
            if len(theirs) > 1:
                raise _exchange(layer, theirs)
            chosen[id(layer)] = theirs[0]
    return chosen


def _one_graph(layers: Sequence[Layer]) -> bool:
    graphs = {layer.place[0] if layer.place else None for layer in layers}
    return None not in graphs and len(graphs) == 1


def _place(layer: Layer) -> int:
    return layer.place[1] if layer.place else -1


def _number(layer: Layer) -> int:
    return -1 if layer.number is None else layer.number


def _exchange(wanted: Layer, stored: Sequence[Layer]) -> Mismatch:
    names = ", ".join(repr(layer.name) for layer in stored[:3])
    more = ", ..." if len(stored) > 3 else ""
    return Mismatch(
        f"its layers {names}{more} have equal shapes, and nothing says which is {wanted.name!r}. "
        "Load it into the model that it was saved from, give its layers the names that they have "
        "here, and save that as a .keras file."
    )


def _lacks(wanted: Layer, left: Iterable[Layer]) -> str:
    same = (one for one in left if one.kind == wanted.kind and one.signature != wanted.signature)
    like = next(same, None)
    return _shapes_differ(wanted, like) if like else f"it lacks a layer {wanted.name!r}."


def _shapes_differ(wanted: Layer, stored: Layer) -> str:
    mine, theirs = list(wanted.arrays.values()), list(stored.arrays.values())
    differ = (
        (stored.arrays.get(key, other).shape, array.shape)
        for (key, array), other in zip(wanted.arrays.items(), theirs, strict=False)
    )
    have, need = next(
        ((h, n) for h, n in differ if tuple(h) != tuple(n)), (theirs[0].shape, mine[0].shape)
    )
    return (
        f"its layer {stored.name!r} holds {tuple(have)}, but {wanted.name!r} needs {tuple(need)}."
    )


# -------------------------------------------------------------------------------- names


def class_name(cls: type) -> str:
    """Returns a class as Keras counts it in names.

    Example:
        >>> class_name(keras.layers.BatchNormalization), class_name(keras.layers.Conv2D)
        ('batch_normalization', 'conv2d')
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", cls.__name__))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


@cache
def _classes() -> Mapping[str, str]:
    """Keras's classes as names count them, now and in Keras 1."""
    classes = {class_name(cls) for cls in vars(keras.layers).values() if isinstance(cls, type)}
    plain = {name.replace("_", ""): name for name in classes}
    return {name: name for name in classes} | plain | {"convolution2d": "conv2d"}


@cache
def split_number(name: str, more: frozenset[str] = frozenset()) -> tuple[str, int]:
    """Splits conv2d_7 into its class and its number; the class is empty if it is none.

    Args:
        name: A layer's name.
        more: Classes besides those of Keras.
    """
    base, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return base if base in more else _classes().get(base, ""), int(number or 0)


def _plain(name: str) -> str:
    """Turns Conv/BatchNorm into conv_bn, as in MobileNetV3 before Keras 3."""
    return name.replace("/", "_").lower().replace("_batchnorm", "_bn")
