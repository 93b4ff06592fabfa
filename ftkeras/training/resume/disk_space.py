"""Room on the disk, asked for before HDF5 writes: on a full disk HDF5 ends the whole process."""

from __future__ import annotations

import contextlib
import errno
import math
import os

import keras
import tensorflow as tf

_A_DATASET = 4096  # bytes that HDF5 adds for each, at most
_CANNOT_TELL = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # file systems without allocation


def check_room(path: str, model: keras.Model) -> None:
    """Raises OSError where a file with a model's weights and optimizer would not fit.

    Args:
        path: Where the file will be; what is there is lost.
        model: The model.
    """
    if "://" in path or not hasattr(os, "posix_fallocate"):
        return
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    needed = sum(
        math.prod(variable.shape) * tf.as_dtype(variable.dtype).size + _A_DATASET
        for variable in variables
        if variable.dtype != "string"
    )
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, needed)
    except OSError as error:
        if error.errno not in _CANNOT_TELL:
            raise
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)
