"""Weights from a file into a model that is already built."""

from __future__ import annotations

import stat
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones.blocks import leaf_layers
from ftkeras.errors import UserError

_MAX_CONFIG, _MAX_WEIGHTS = 64 << 20, 64 << 30  # bytes that a `.keras` file's members unpack to
_MAX_SWELLING = 100  # how much weights may be compressed


def load_into(model: keras.Model, path: str, name: str) -> None:
    """Fills a model with the weights of a file, or changes nothing and says what does not fit.

    A file that also holds a classifier on top fits too: what it has beyond the model is left out.

    Args:
        model: Where the weights go.
        path: A `.weights.h5` file, a legacy `.h5` file of weights or of a whole model, or a
            `.keras` file, which is loaded in safe mode.
        name: What the model is called in messages.

    Raises:
        UserError: There is no such file, it cannot be read, or it does not fit.
    """
    if not Path(path).is_file() and not (path.endswith(".keras") and tf.io.gfile.exists(path)):
        raise UserError(
            f"backbone.weights: no file {path!r}; allowed are imagenet, starter, none, or the path "
            "of a .weights.h5, .h5 or .keras file."
        )
    if path.endswith(".keras"):
        _fill(model, _from_keras(path), path, name)
        return
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"backbone.weights: {path} is no .weights.h5, .h5 or .keras file that can be read."
        ) from error
    with file:
        try:
            group = _inside(file, "model_weights", path) if "model_weights" in file else file
            if "layer_names" in group.attrs or "layer_names0" in group.attrs:
                _fill(model, list(_from_legacy(group, path)), path, name)
                return
        except UserError:
            raise
        except Exception as error:  # HDF5 is a file system of its own, and may be odd in any way
            raise UserError(f"backbone.weights: {path} is damaged: {one_line(error)}") from error
    _load_weights_h5(model, path, name)


def read_model(path: str, field: str) -> keras.Model:
    """Loads a `.keras` file in safe mode: no code that it carries is run.

    Args:
        path: The file.
        field: Which field of the config names it, for messages.

    Raises:
        UserError: It is missing, damaged, not a `.keras` file, or needs code of its own.
    """
    if not tf.io.gfile.exists(path) or ("://" not in path and not Path(path).is_file()):
        raise UserError(f"{field}: no file {path!r}. Check the spelling.")
    _check_archive(path, field)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file can fail anywhere: zip, JSON, HDF5, any layer
        text = one_line(_root(error))
        if "Lambda" in text:
            reason = "it holds Python code (a Lambda layer), which is never run"
        elif "Could not locate" in text:
            reason = f"it needs code beyond Keras: {text}"
        else:
            reason = f"it is damaged or no .keras file: {text}"
        raise UserError(f"{field}: cannot load {path}: {reason}") from error


def _check_archive(path: str, field: str) -> None:
    """Refuses members that no `.keras` file needs: outside of it, links, or enormous once unpacked.

    Keras 3.15 looks at some of this too, older ones don't.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (tf.errors.OpError, OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        raise UserError(f"{field}: cannot load {path}: it is damaged or no .keras file") from None
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        outside = parts.is_absolute() or ".." in parts.parts or ":" in member.filename
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(
                f"{field}: cannot load {path}: its member {member.filename!r} points outside of it"
            )
        limit = _MAX_CONFIG if member.filename.endswith(".json") else _MAX_WEIGHTS
        swells = member.file_size > _MAX_SWELLING * member.compress_size + _MAX_CONFIG
        if member.file_size > limit or swells:
            raise UserError(
                f"{field}: cannot load {path}: its member {member.filename!r} unpacks to "
                f"{member.file_size / 1e6:,.0f} MB"
            )


def _root(error: BaseException) -> BaseException:
    """Returns the first error of a chain: what Keras raises in turn quotes a whole config."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _weighted(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in leaf_layers(model) if layer.weights]


def _from_keras(path: str) -> list[tuple[str, np.ndarray]]:
    layers = leaf_layers(read_model(path, "backbone.weights"))
    return [(layer.name, value) for layer in layers for value in layer.get_weights()]


def _from_legacy(group: Any, path: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields what Keras wrote before version 3, in graph order, as (layer, array).

    The arrays are not read yet: a file of a kilobyte may claim to hold one of a petabyte.
    """
    for layer in _attribute(group, "layer_names"):
        for weight in _attribute(_inside(group, layer, path), "weight_names"):
            dataset = _inside(_inside(group, layer, path), weight, path)
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
                raise UserError(f"backbone.weights: {path} is damaged: {weight!r} is no array.")
            yield layer, dataset


def _attribute(group: Any, name: str) -> list[str]:
    """Reads a list of names; long ones are spread over `name0`, `name1` and so on."""
    parts = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{name}{len(parts)}"])
    return [text.decode() if isinstance(text, bytes) else text for part in parts for text in part]


def _inside(group: Any, path_inside: str, path: str) -> Any:
    """Goes down an HDF5 path, refusing links, which could reach into other files."""
    for part in path_inside.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"backbone.weights: {path} is damaged: it lacks {path_inside!r}.")
        group = group[part]
    if isinstance(group, h5py.Dataset) and (group.is_virtual or group.external):
        raise UserError(f"backbone.weights: {path} refers to data in other files.")
    return group


def _fill(
    model: keras.Model,
    arrays: Sequence[tuple[str, np.ndarray | h5py.Dataset]],
    path: str,
    name: str,
) -> None:
    """Puts arrays into the model's weights by order, once all shapes are known to agree."""
    layers = _weighted(model)
    wanted = [(layer.name, weight) for layer in layers for weight in layer.weights]
    if len(arrays) < len(wanted):
        raise UserError(
            f"backbone.weights: {path} does not fit {name}: it holds {len(arrays)} arrays and "
            f"{len(wanted)} are needed."
        )
    # What follows the model's own weights in the file is its classifier.
    for (theirs, value), (layer_name, weight) in zip(arrays, wanted, strict=False):
        if value.shape != tuple(weight.shape):
            raise UserError(
                f"backbone.weights: {path} does not fit {name}: its layer {theirs!r} holds "
                f"{value.shape} where {layer_name!r} needs {tuple(weight.shape)}."
            )
    values = iter(np.asarray(value) for _, value in arrays)
    for layer in layers:
        assign(layer, [next(values) for _ in layer.weights])


def assign(layer: keras.layers.Layer, values: list[np.ndarray]) -> None:
    """Sets a layer's weights, so that it also uses them."""
    layer.set_weights(values)
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # it computes with a copy of its weights, taken here


def _load_weights_h5(model: keras.Model, path: str, name: str) -> None:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.load_weights(path)
        # Where a file lacks layers, Keras may say so in a warning alone.
        lacking = [str(w.message) for w in caught if "freshly-initialized" in str(w.message)]
        if lacking:
            raise ValueError(lacking[0])
    except Exception as error:  # a damaged file can fail anywhere
        raise UserError(
            f"backbone.weights: {path} does not fit {name}: {one_line(error)}"
        ) from error


def one_line(error: BaseException) -> str:
    """Returns an error's text on one line, cut where it gets long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."
