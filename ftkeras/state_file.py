"""One file for a tree of plain values and arrays: written whole or not at all, checksummed.

    "ftkeras state 1\\n" | length of the header, 8 bytes | header | arrays | SHA-256 of all before

The header is JSON, UTF-8: the tree, and the type and shape of each array. The arrays follow it one
after the other as raw numbers, little-endian, rows first. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.files import written_whole

gfile = tf.io.gfile

Tree = dict[str, Any]
"""Nested dicts and lists of strings, numbers, booleans, None and arrays."""

_MAGIC = b"ftkeras state 1\n"
_LENGTH = struct.Struct("<Q")
_ARRAY = "array:"  # a dict with this one key stands for an array, by its number
_DIGEST_BYTES = hashlib.sha256().digest_size


class DamagedState(Exception):
    """A state file is not what was written; the message has the fault."""


def write_state(path: str, tree: Tree) -> None:
    """Writes a tree so that `path` is the old file or the new one, whole, whenever we are killed.

    Args:
        path: The file; local or remote (gs://).
        tree: What to write. Tuples come back as lists, NumPy numbers as arrays of no dimension.
    """
    arrays: list[np.ndarray] = []
    facts = {"tree": _plain(tree, arrays), "arrays": [[a.dtype.name, a.shape] for a in arrays]}
    header = json.dumps(facts).encode()
    digest = hashlib.sha256()
    with written_whole(path) as temporary, gfile.GFile(temporary, "wb") as file:
        for part in (_MAGIC, _LENGTH.pack(len(header)), header, *map(_bytes, arrays)):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def read_state(path: str) -> Tree:
    """Returns what `write_state` wrote.

    Raises:
        DamagedState: The file is cut short, changed, or not of this kind.
    """
    try:
        with gfile.GFile(path, "rb") as file:
            data = memoryview(file.read())
    except tf.errors.OpError as error:
        raise DamagedState(f"cannot be read ({error.message})") from None
    content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    begin = len(_MAGIC) + _LENGTH.size
    if len(content) < begin or content[: len(_MAGIC)] != _MAGIC:
        raise DamagedState("is cut short or not a checkpoint")
    if hashlib.sha256(content).digest() != digest:
        raise DamagedState("is damaged: its checksum is wrong")
    (length,) = _LENGTH.unpack(content[len(_MAGIC) : begin])
    facts = json.loads(bytes(content[begin : begin + length]))
    offset, arrays = begin + length, []
    for name, shape in facts["arrays"]:
        dtype = tf.as_dtype(name).as_numpy_dtype  # knows bfloat16
        array: np.ndarray = np.ndarray(shape, dtype, content, offset)
        arrays.append(array.copy())
        offset += array.nbytes
    return _rebuilt(facts["tree"], arrays)


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inside, arrays) for key, inside in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inside, arrays) for inside in value]
    if isinstance(value, (np.ndarray, np.generic)):
        arrays.append(np.asarray(value))
        return {_ARRAY: len(arrays) - 1}
    return value


def _rebuilt(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_rebuilt(inside, arrays) for inside in value]
    if isinstance(value, dict):
        if list(value) == [_ARRAY]:
            return arrays[value[_ARRAY]]
        return {key: _rebuilt(inside, arrays) for key, inside in value.items()}
    return value


def _bytes(array: np.ndarray) -> bytes:
    return array.tobytes()  # in rows, whatever its layout in memory
