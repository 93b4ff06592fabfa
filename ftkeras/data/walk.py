"""Finds files under a folder, whatever lies in it: loops of links, odd names, pipes, locked doors.

TensorFlow's own walk follows a link to a folder above for ever, and stops at a name that is not
UTF-8. Real collections have both. It is used only if needed: on remote folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.paths import is_remote, is_utf8, shown


def files_under(folder: str) -> Iterator[str]:
    """Yields the paths of all files under a folder, each real folder once, but no system's.

    Raises:
        UserError: A folder may not be read.
    """
    if is_remote(folder):
        for parent, _, names in tf.io.gfile.walk(folder):
            if all(map(_is_own, parent[len(folder) :].strip("/").split("/"))):
                yield from (f"{parent.rstrip('/')}/{name}" for name in sorted(names))
        return
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=_look_at, followlinks=True):
        try:
            info = os.stat(parent)
        except FileNotFoundError:
            continue
        if (info.st_dev, info.st_ino) in seen:
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        folders[:] = sorted(filter(_is_own, folders))
        yield from (f"{parent.rstrip('/')}/{name}" for name in sorted(names))


def subfolders(path: str) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones and a system's.

    Raises:
        UserError: The folder may not be read, or the name of one in it is not UTF-8.
    """
    if is_remote(path):
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(path)]
        names = [name for name in names if tf.io.gfile.isdir(f"{path}/{name}")]
    else:
        try:
            with os.scandir(path) as entries:
                names = [entry.name for entry in entries if os.path.isdir(entry.path)]
        except OSError as error:
            _refuse(error)
    for name in names:
        if not is_utf8(name):
            raise UserError(f"{path}: the folder name {shown(name)} is not UTF-8. Rename it.")
    return sorted(filter(_is_own, names))


def _is_own(folder: str) -> bool:
    """Whether a person made a folder, and not a system: macOS, Python or a Synology disk."""
    return not folder.startswith(".") and folder not in {"__MACOSX", "__pycache__", "@eaDir"}


def _look_at(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # otherwise it went away meanwhile
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    name = " ".join(shown(str(error.filename)).split("\n"))
    raise UserError(f"{name}: cannot be read ({error.strerror}).") from error
