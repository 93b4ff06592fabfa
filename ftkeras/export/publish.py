"""Versions of an export: numbered folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from ftkeras.errors import UserError


@contextlib.contextmanager
def new_version(directory: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Yields a local folder whose contents become the next version if the block succeeds.

    A server can watch the directory meanwhile.

    Args:
        directory: Where versions 1, 2, ... are; local or remote (gs://).

    Yields:
        The local folder to write to, and the version's folder.

    Raises:
        UserError: The directory cannot be written.
    """
    target = os.path.join(directory, str(_next_version(directory)))
    if "://" in target:  # object stores cannot rename a folder
        with tempfile.TemporaryDirectory() as scratch:
            yield scratch, target
            _upload(Path(scratch), target)
        return
    folder = f"{target}.partial"  # not a number, so no server takes it for a version
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    os.mkdir(folder)
    try:
        yield folder, target
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def size_of(folder: str | os.PathLike[str]) -> int:
    """Returns how many bytes the files in a local folder take."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _next_version(directory: str | os.PathLike[str]) -> int:
    """Returns one more than the highest version there is, and makes the directory."""
    try:
        tf.io.gfile.makedirs(directory)
        names = tf.io.gfile.listdir(directory)
    except tf.errors.OpError as error:
        raise UserError(
            f"export: cannot write to {os.fspath(directory)!r}: {error.message}. "
            "Choose another folder."
        ) from error
    return 1 + max(
        (int(n) for n in (name.rstrip("/") for name in names) if n.isdecimal()), default=0
    )


def _upload(folder: Path, target: str) -> None:
    """Copies an export to its served place, completely or not at all."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    try:
        # A server takes a folder for a model when it finds saved_model.pb, so that comes last.
        for path in sorted(files, key=lambda path: path.name == "saved_model.pb"):
            destination = f"{target}/{path.relative_to(folder).as_posix()}"
            tf.io.gfile.makedirs(os.path.dirname(destination))
            tf.io.gfile.copy(path, destination)
    except BaseException:
        tf.io.gfile.rmtree(target)
        raise


def write_json(path: Path, tree: Any) -> None:
    """Writes plain dicts, lists, strings and numbers as JSON into a version."""
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
