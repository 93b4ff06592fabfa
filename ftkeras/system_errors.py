"""What went wrong outside of ftkeras, in one line: the disk, the memory, a file that is gone.

TensorFlow reports such trouble in pages that name the graph's nodes and not the remedy. Nothing
here imports TensorFlow, so that the command line can explain an error that came before it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
_MEMORY = ("OOM when allocating", "failed to allocate memory", "Unable to allocate", "bad_alloc")


def explain(
    error: BaseException,
    *,
    find_broken: Callable[[], str] | None = None,
    find_batch_size: Callable[[], str] | None = None,
) -> str | None:
    """Returns one line for an error that the world around causes, or None for any other.

    Args:
        error: What was raised; what it was raised from is looked at too.
        find_broken: Returns in words which example cannot be read; called if reading failed.
        find_batch_size: Returns in words which batch size would fit; called if memory ran out.
    """
    for cause in _chain(error):
        number, text = _number(cause), str(cause)
        if number in _FULL:
            return f"no space is left to write to ({reason(cause)}). Free some, then run again."
        if number in _LOCKED:
            return f"a file may not be written or read: {reason(cause)}."
        if number == errno.EIO:
            return f"the disk fails to read or write: {reason(cause)}."
        if isinstance(cause, MemoryError) or any(sign in text for sign in _MEMORY):
            advice = find_batch_size() if find_batch_size else "Lower data.batch_size."
            return f"the memory is used up. {advice}"
        if _is_of_data(cause):
            where = find_broken() if find_broken else ""
            return where or f"data cannot be read: {reason(cause)}."
    return None


def describe(
    error: BaseException,
    *,
    write: Callable[[str], str] | None = None,
    **finders: Callable[[], str] | None,
) -> str:
    """Returns one line for any error, and keeps its traceback in a file that the line names.

    Args:
        error: What was raised.
        write: Writes a text, say to the run's folder, and returns its path; a temporary file
            takes it if that fails.
        **finders: For `explain`.
    """
    line = explain(error, **finders)
    path = _keep("".join(traceback.format_exception(error)), write)
    kept = f" The traceback is in {path}." if path else ""
    if line is None:
        line = f"{type(error).__name__}: {reason(error)}."
        kept += " If this is a mistake in ftkeras, please report it with that file." if path else ""
    return line + kept


def _keep(text: str, write: Callable[[str], str] | None) -> str:
    for attempt in (write, _to_temporary_file):
        with contextlib.suppress(Exception):  # the disk may be the very trouble
            if attempt is not None:
                return attempt(text)
    return ""


def _to_temporary_file(text: str) -> str:
    handle, path = tempfile.mkstemp(prefix="ftkeras-error-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return path


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and what it came from; the first trouble lies deepest."""
    errors: list[BaseException] = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    yield from reversed(errors)


def _number(error: BaseException) -> int | None:
    """The operating system's number of an error, which TensorFlow and HDF5 hide in their text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    known = (*_FULL, *_LOCKED, errno.EIO)
    text = str(error)
    return next((n for n in known if os.strerror(n) in text or f"errno = {n}," in text), None)


def _is_of_data(error: BaseException) -> bool:
    """Whether TensorFlow failed to read or decode an example."""
    if not type(error).__module__.startswith("tensorflow"):
        return False
    if type(error).__name__ in ("NotFoundError", "DataLossError", "OutOfRangeError"):
        return True
    reads = ("IteratorGetNext", "DecodeJpeg", "DecodePng", "DecodeImage", "DecodeBmp", "ReadFile")
    return any(sign in str(error) for sign in reads)


def reason(error: BaseException) -> str:
    """Returns the first sentence of an error, without what TensorFlow puts around it."""
    text = " ".join(str(getattr(error, "message", None) or error).split())
    while text.startswith("{{") and "}} " in text:
        text = text.partition("}} ")[2]
    text = re.sub(r"^Error in user-defined function .*?Iterator::Root[\w:]*: ", "", text)
    for end in (" [[{{", " [Op:", "\n"):
        text = text.partition(end)[0]
    text = text.strip().rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
