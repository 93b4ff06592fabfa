"""Loads weights from a file into a model that is already built."""

from __future__ import annotations

import stat
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones.blocks import leaf_layers
from ftkeras.backbones.matching import Layer, Mismatch, match, match_paths, pair
from ftkeras.backbones.stored import is_legacy, layers_of, legacy_layers, shards, weights_layers
from ftkeras.errors import UserError

_MAX_CONFIG, _MAX_WEIGHTS = 64 << 20, 64 << 30  # bytes that a `.keras` file's members unpack to
_MAX_SWELLING = 100  # the largest ratio of compression


def load_into(model: keras.Model, path: str, name: str) -> None:
    """Fills a model with the weights of a file; changes nothing if they do not fit.

    "starter" means the shipped weights of MobileNetV2.

    A file that also holds a classifier on top fits, too: its other layers are ignored.

    Args:
        model: The model to fill.
        path: A `.weights.h5` or `.weights.json` file, a legacy `.h5` file of weights or of a whole
            model, or a `.keras` file, which is loaded in safe mode.
        name: The model's name in messages.

    Raises:
        UserError: There is no such file, it cannot be read, it does not fit, or its layers cannot
            be identified.
    """
    if path == "starter":
        from ftkeras import starter

        starter.load_weights_into(model)
        return
    if not Path(path).is_file() and not (path.endswith(".keras") and tf.io.gfile.exists(path)):
        raise UserError(
            f"backbone.weights: no file {path!r}; allowed are imagenet, starter, none, or the path "
            "of a .weights.h5, .weights.json, .h5 or .keras file."
        )
    try:
        if path.endswith(".keras"):
            _fill(model, layers_of(read_model(path, "backbone.weights")))
            return
        with ExitStack() as stack:
            paths = shards(path) if path.endswith(".json") else [path]
            files = [stack.enter_context(_open(each)) for each in paths]
            if is_legacy(files[0]):
                _fill(model, legacy_layers(files[0], layers_of(model), path))
            else:
                _fill_as_keras_does(model, *weights_layers(files, path))
    except Mismatch as error:
        raise UserError(f"backbone.weights: {path} does not fit {name}: {error}") from error
    except UserError:
        raise
    except Exception as error:  # HDF5 is a whole file system, and may fail with any error
        raise UserError(f"backbone.weights: {path} is damaged: {one_line(error)}") from error


def weights_in_order(source: keras.Model, model: keras.Model) -> list[np.ndarray]:
    """Returns the weights of one model in the order of another one's, paired by name.

    Raises:
        Mismatch: The models have other layers.
    """
    values = {}
    wanted = layers_of(model)
    for mine, theirs in zip(wanted, match(wanted, layers_of(source)), strict=True):
        for key, value in pair(mine, theirs).items():
            values[id(mine.arrays[key])] = _read(value)
    return [values[id(variable)] for variable in model.weights]


def _open(path: str) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"backbone.weights: {path} is no .weights.h5, .h5 or .keras file that can be read."
        ) from error


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
    except Exception as error:  # a damaged file can fail in zip, JSON, HDF5 or any layer
        text = one_line(_root(error))
        if "Lambda" in text:
            reason = "it holds Python code (a Lambda layer), which is never run"
        elif "Could not locate" in text:
            reason = f"it needs code beyond Keras: {text}"
        else:
            reason = f"it is damaged or no .keras file: {text}"
        raise UserError(f"{field}: cannot load {path}: {reason}") from error


def _check_archive(path: str, field: str) -> None:
    """Refuses members that no `.keras` file needs: paths outside of it, links, or enormous files.

    Keras 3.15 checks some of this, too; older versions don't.
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
    """Returns the first error of a chain; Keras's later ones quote a whole config."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _fill(model: keras.Model, stored: Sequence[Layer]) -> None:
    """Puts stored layers into a model, after all of them were read and checked."""
    wanted = layers_of(model)
    chosen = match(wanted, stored)
    arrays = [pair(mine, theirs) for mine, theirs in zip(wanted, chosen, strict=True)]
    values = [[_read(array) for array in each.values()] for each in arrays]
    leaves = [layer for layer in leaf_layers(model) if layer.weights]
    for leaf, own in zip(leaves, values, strict=True):
        assign(leaf, own)


def _read(array: Any) -> np.ndarray:
    if isinstance(array, h5py.Dataset):
        return np.asarray(array)
    return np.array(keras.ops.convert_to_numpy(array))


def assign(layer: keras.layers.Layer, values: list[np.ndarray]) -> None:
    """Sets a layer's weights and makes the layer use them."""
    layer.set_weights(values)
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # it computes with a copy of its weights, made here


def _fill_as_keras_does(model: keras.Model, stored: Mapping[str, Layer], named: bool) -> None:
    """Writes the model's own `.weights.h5`, puts the stored arrays into that, and loads it.

    A layer may write its weights in its own format, which only the layer itself knows.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.weights.h5"
        model.save_weights(path)
        with h5py.File(path, "r+") as file:
            own, own_named = weights_layers([file], path)
            if named and own_named:
                wanted = sorted(own.values(), key=lambda layer: layer.place or ("", 0))
                chosen = match(wanted, list(stored.values()))
            else:
                wanted, chosen = list(own.values()), match_paths(own, stored)
            for mine, theirs in zip(wanted, chosen, strict=True):
                for key, array in pair(mine, theirs).items():
                    name, value = mine.arrays[key].name, array[()]
                    del file[name]
                    file[name] = value
                    if array.attrs.get("dtype") == "bfloat16":  # HDF5 has no such type
                        file[name].attrs["dtype"] = "bfloat16"
        model.load_weights(path)


def one_line(error: BaseException) -> str:
    """Returns an error's text on one line, shortened."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."
