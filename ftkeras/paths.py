"""What a path may be: remote, not UTF-8, a pipe, a loop of links."""

from __future__ import annotations

import os
import stat

import tensorflow as tf


def is_remote(path: str) -> bool:
    """Whether only TensorFlow's file systems know a path (`gs://`, `ram://`)."""
    return "://" in path


def is_utf8(name: str) -> bool:
    """Whether a name, as Python gives it, can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def why_not_readable(path: str) -> str:
    """Returns why a file should not even be opened, or "".

    Opening a pipe waits for its writer, and a device may never end.
    """
    if not is_utf8(path) or "\0" in path:
        return "its name is not UTF-8 text"
    if is_remote(path):
        try:
            return "" if tf.io.gfile.exists(path) else "no such file"
        except tf.errors.OpError as error:  # no such kind of file system, or no way to it
            return f"cannot be read: {' '.join(str(error.message).split())[:200]}"
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except OSError as error:  # a loop of links, a name too long, a folder that is locked
        return f"cannot be read: {error.strerror}"
    return "" if stat.S_ISREG(mode) else "not a regular file"


def shown(name: str) -> str:
    """Returns a name that can be written anywhere; what is not UTF-8 in it is escaped."""
    return name if is_utf8(name) else name.encode("utf-8", "backslashreplace").decode()
