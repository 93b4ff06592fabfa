"""The layers in a weights file, in each format of Keras; their arrays are not read yet.

A file of a kilobyte may claim to hold an array of a petabyte, and a link may lead to other files.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras

from ftkeras.backbones.blocks import leaf_layers
from ftkeras.backbones.matching import Layer, class_name, split_number
from ftkeras.errors import UserError

# `layers/functional/layers/conv2d_1/vars/0`: a layer, by class and number, and its first weight.
_WEIGHT = re.compile(r"((?:(?:layers|_layer_checkpoint_dependencies)/[^/]+/)+)(.*)")


def layers_of(model: keras.Model) -> list[Layer]:
    """Returns the layers of a model that have weights, in graph order.

    The arrays are the model's own variables.
    """
    leaves = [layer for layer in leaf_layers(model) if layer.weights]
    return [
        Layer(
            (leaf.name,),
            dict(zip(_within([v.path for v in leaf.weights]), leaf.weights, strict=True)),
            class_name(type(leaf)),
            ("", index),
        )
        for index, leaf in enumerate(leaves)
    ]


# ------------------------------------------------------- .h5 of Keras 2, whole .h5 of both


def is_legacy(file: Any) -> bool:
    """Whether an HDF5 file has the format of Keras before version 3."""
    names = {"layer_names", "layer_names0"}  # long lists of names are spread over several
    return "model_weights" in file or not names.isdisjoint(file.attrs)


def legacy_layers(file: Any, wanted: Sequence[Layer], path: str) -> list[Layer]:
    """Reads the format of Keras before version 3: a group per top layer, which may be a model.

    Within a group, trainable weights come before others. So layers of a nested model are separated
    by the names of their weights, and only a whole model's config has their order.

    Args:
        file: An open HDF5 file.
        wanted: The layers of the model to fill; their names help to parse scopes.
        path: The file's name, for messages.

    Raises:
        UserError: The file is damaged, links to other files, or repeats a name.
    """
    group = _inside(file, "model_weights", path) if "model_weights" in file else file
    order, index = _saved_order(file), itertools.count()
    called = {name for layer in wanted for name in layer.names}
    kinds = frozenset(layer.kind for layer in wanted)
    found = []
    for name in dict.fromkeys(_attribute(group, "layer_names")):
        arrays = _arrays(_inside(group, name, path), name, path)
        leaves = None if order is None else order.get(name, ())
        owned = _owners(name, arrays, called, leaves)
        ordered = len(owned) == 1
        if leaves and len(set(leaves)) == len(leaves) and set(owned) <= set(leaves):
            owned, ordered = {leaf: owned[leaf] for leaf in leaves if leaf in owned}, True
        for owner, weights in owned.items():
            names = [name] * (len(owned) == 1) + [owner, owner.rpartition("/")[2]]
            names = list(filter(None, dict.fromkeys(names)))
            kind = next(filter(None, (split_number(each, kinds)[0] for each in names)), "")
            held = dict(zip(_within(list(weights)), weights.values(), strict=True))
            found.append(Layer(tuple(names), held, kind, ("", next(index)) if ordered else None))
    return found


def _arrays(group: Any, layer: str, path: str) -> dict[str, h5py.Dataset]:
    names = _attribute(group, "weight_names")
    if len(set(names)) < len(names):
        raise UserError(
            f"backbone.weights: {path} gives several weights of {layer!r} one name. Save the model "
            "again as a .keras file."
        )
    return {name: _dataset(group, name, path) for name in names}


def _owners(
    group: str, arrays: Mapping[str, Any], wanted: set[str], leaves: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Groups the weights of a top layer by the layer that owns them.

    Args:
        group: The top layer's name.
        arrays: The weights by names such as `base/conv2d_1/kernel:0`.
        wanted: The names of the layers of the model to fill.
        leaves: The layers inside, none if it is no model; None if the file has no config.
    """
    scopes = {name: re.sub(r":\d+$", "", name).rpartition("/")[0] for name in arrays}
    if not arrays:
        return {}
    if leaves is None:
        own = all(f"{scope}/".startswith(f"{group}/") for scope in scopes.values())
        whole = group in wanted or (own and bool(split_number(group)[0]))
    else:
        whole = not leaves
    if whole or len(set(scopes.values())) == 1:
        return {group if whole else scopes[next(iter(scopes))]: dict(arrays)}
    hints = sorted(leaves or wanted, key=len, reverse=True)
    owned: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        scope = scopes[name]
        owner = next((hint for hint in hints if f"/{hint}/" in f"/{scope}/"), scope or group)
        owned.setdefault(owner, {})[name] = array
    return owned


def _saved_order(file: Any) -> dict[str, tuple[str, ...]] | None:
    """Returns the layers of each model that a whole model's config nests, in graph order."""
    text = file.attrs.get("model_config")
    if text is None:
        return None
    config = json.loads(text)["config"]
    tops = config if isinstance(config, list) else config["layers"]
    return {_name(top): tuple(_leaves(top)) for top in tops if _nested(top)}


def _leaves(layer: Any) -> Iterator[str]:
    for inner in _nested(layer):
        if _nested(inner):
            yield from _leaves(inner)
        else:
            yield _name(inner)


def _nested(layer: Any) -> list[Any]:
    config = layer["config"]
    return config if isinstance(config, list) else config.get("layers") or []


def _name(layer: Any) -> str:
    config = layer["config"]
    return layer.get("name") or (config["name"] if isinstance(config, dict) else "")


# ----------------------------------------------------------------- .weights.h5 of Keras 3


def weights_layers(files: Sequence[Any], path: str) -> tuple[dict[str, Layer], bool]:
    """Reads the format of Keras 3: layers by paths such as `layers/conv2d_1/`.

    A path has a layer's class and its number among the layers of its class, in graph order; frozen
    layers count, too. Newer files also hold the layers' names; the second result is whether all
    layers are named.

    Args:
        files: The open HDF5 files: one, or those that share the weights of one model.
        path: The file's name, for messages.

    Raises:
        UserError: It refers to data in other files.
    """
    arrays: dict[str, dict[str, h5py.Dataset]] = {}
    names: dict[str, str] = {}
    for file, (inside, found) in ((each, item) for each in files for item in _walk(each)):
        match = _WEIGHT.fullmatch(inside.replace("\\", "/"))
        if match is None:
            continue
        where, key = match[1].replace("_layer_checkpoint_dependencies", "layers"), match[2]
        if isinstance(found, h5py.Group):
            if key == "vars" and isinstance(found.attrs.get("name"), str):
                names[where] = found.attrs["name"]
        elif "seed_generator" not in key:  # a random state is not a weight
            own = "/".join(part.lstrip("_") for part in key.split("/"))
            arrays.setdefault(where, {})[own] = _dataset(file, inside, path)
    layers = {}
    for where, held in arrays.items():
        graph, _, own = where.rstrip("/").rpartition("/")
        kind, _, number = own.rpartition("_")
        if not number.isdecimal():
            kind, number = own, "0"
        name = names.get(where, where.rstrip("/"))
        layers[where] = Layer((name,), held, kind, (graph, int(number)))
    return layers, set(arrays) <= set(names)


def _walk(file: Any) -> list[tuple[str, Any]]:
    """Lists an HDF5 file without following links."""
    found: list[tuple[str, Any]] = []
    file.visititems(lambda name, item: found.append((name, item)))
    return found


def shards(path: str) -> list[str]:
    """Returns the files over which a `.weights.json` spreads the weights of a model.

    Raises:
        UserError: It is no such file, or names files outside of its folder.
    """
    try:
        shared = json.loads(Path(path).read_text())["weight_map"].values()
        names = {name for each in shared for name in ([each] if isinstance(each, str) else each)}
        if any(Path(name).name != name for name in names):
            raise ValueError("it points outside of its folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"backbone.weights: {path} is no .weights.json: {error}") from error
    return [str(Path(path).with_name(name)) for name in sorted(names)]


# ---------------------------------------------------------------------------------- HDF5


def _attribute(group: Any, name: str) -> list[str]:
    """Reads a list of names; long ones are spread over `name0`, `name1` and so on."""
    parts = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{name}{len(parts)}"])
    return [text.decode() if isinstance(text, bytes) else text for part in parts for text in part]


def _inside(group: Any, path_inside: str, path: str) -> Any:
    """Follows an HDF5 path, but refuses links, which could lead into other files."""
    for part in path_inside.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"backbone.weights: {path} is damaged: it lacks {path_inside!r}.")
        group = group[part]
    if isinstance(group, h5py.Dataset) and (group.is_virtual or group.external):
        raise UserError(f"backbone.weights: {path} refers to data in other files.")
    return group


def _dataset(group: Any, name: str, path: str) -> h5py.Dataset:
    dataset = _inside(group, name, path)
    half = isinstance(dataset, h5py.Dataset) and dataset.attrs.get("dtype") == "bfloat16"
    if not isinstance(dataset, h5py.Dataset) or (dataset.dtype.kind not in "fiu" and not half):
        raise UserError(f"backbone.weights: {path} is damaged: {name!r} is no array.")
    return dataset


def _within(paths: Sequence[str]) -> list[str]:
    """Returns a weight's name within its layer, without outer scopes: kernel, query/bias."""
    split = [re.sub(r":\d+$", "", path).split("/") for path in paths]
    common = 0
    while (
        all(len(parts) > common + 1 for parts in split)
        and len({parts[common] for parts in split}) == 1
    ):
        common += 1
    full = ["/".join(parts[common:]) for parts in split]
    # Layers within a layer are counted too: forward_lstm_3.
    plain = ["/".join(re.sub(r"_\d+$", "", part) for part in path.split("/")) for path in full]
    return plain if len(set(plain)) == len(plain) else full
