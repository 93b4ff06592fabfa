"""Whole paths, and files that are written whole: readers never see half of one."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftkeras.errors import UserError

if TYPE_CHECKING:
    import numpy as np

OTHER_ENCODINGS = {  # what files begin with that are not UTF-8; UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_HALF = ".half-"  # how the name of a file begins that is being written


def whole_path(path: str) -> str:
    """Returns a path that is the same in any working folder: absolute, with `~` as the home."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yields a temporary path in the same folder, which becomes `path` if the block ends well.

    If the block fails, `path` stays as it is. Several processes may write the same file at once:
    each has a temporary path of its own, which ends like `path`.

    Args:
        path: The file; local or remote (gs://).

    Example:
        ```python
        with written_whole("model.keras") as temporary:
            model.save(temporary)
        ```
    """
    from tensorflow.io import gfile  # here: importing it takes seconds

    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f"{_HALF}{uuid.uuid4().hex[:8]}-{name}")
    try:
        yield temporary
        flush_to_disk(temporary)
        gfile.rename(temporary, os.path.join(folder, name), overwrite=True)
    except BaseException:
        with contextlib.suppress(Exception):
            gfile.remove(temporary)
        raise


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file whole: text as UTF-8, or bytes."""
    from tensorflow.io import gfile

    with written_whole(path) as temporary, gfile.GFile(temporary, "wb") as file:
        file.write(content)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes arrays whole, by name, as an `.npz` of NumPy."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz`, by name; nothing is unpickled."""
    import numpy as np
    from tensorflow.io import gfile

    with gfile.GFile(os.fspath(path), "rb") as file:
        return dict(np.load(io.BytesIO(file.read()), allow_pickle=False))


def write_out(path: str, text: str) -> None:
    """Writes a text file where a person wants it, which may be a device or a pipe.

    Raises:
        UserError: It cannot be written.
    """
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(path, "w") as file:
            file.write(text)
    except tf.errors.OpError as error:
        raise UserError(f"--out {path}: cannot be written ({error.message}).") from None


def is_half_written(name: str) -> bool:
    """Whether a file is one that a killed process was writing, by its name."""
    return name.startswith(_HALF)


def flush_to_disk(path: str) -> None:
    """Waits until a local file's content is on the disk.

    Before the file gets its name: a power cut may leave it empty otherwise.
    """
    if "://" in path:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
