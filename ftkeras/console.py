"""What a person reads while they wait: progress with time left, and plain tables.

On a terminal progress redraws one line; piped, it prints a line now and then. All text is ASCII.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TextIO, TypeVar

T = TypeVar("T")

_REDRAW_SECONDS = 0.2  # on a terminal
_REPEAT_SECONDS = 15.0  # piped
_QUIET_SECONDS = 2.0  # what is over sooner than this shows nothing


def duration(seconds: float) -> str:
    """Returns seconds as people write them.

    Example:
        >>> duration(0.0042), duration(4.21), duration(75), duration(3725)
        ('4.2 ms', '4.2 s', '1 min 15 s', '1 h 02 min')
    """
    if 0 < seconds < 0.05:
        return f"{max(1000 * seconds, 0.01):.2g} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, noun: str, nouns: str = "") -> str:
    """Returns a count and its noun.

    Example:
        >>> counted(1, "epoch"), counted(1200, "epoch"), counted(0, "class", "classes")
        ('1 epoch', '1200 epochs', '0 classes')
    """
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def printable(text: str) -> str:
    """Returns a text with escapes instead of what moves the cursor or cannot be seen.

    Example:
        >>> printable("a\\tb")
        'a\\\\tb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Progress:
    """One line that says how far a job is, and how long it will take.

    Args:
        label: What is being done, for example "scan".
        total: How many there are to do, or None if that is unknown.
        noun: What is counted, one of it.
        nouns: Several of it; `noun` with an s if left out.
        stream: Where to write; standard error by default.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        noun: str,
        nouns: str = "",
        *,
        stream: TextIO | None = None,
    ):
        self.label = label
        self.total = total
        self._nouns = noun, nouns
        self.done = 0
        self._skipped = 0
        self._slow: tuple[float, int] | None = None  # when the first steps ended; how many
        self.stream = stream or sys.stderr
        self._terminal = self.stream.isatty()
        self._start = time.monotonic()
        self._shown_at = self._start
        self._width = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts `steps` and redraws the line if it is time."""
        self.done += steps
        now = time.monotonic()
        if self._slow is None and steps:
            self._slow = now, self.done - self._skipped
        if now - self._start < _QUIET_SECONDS:
            return
        if now - self._shown_at >= (_REDRAW_SECONDS if self._terminal else _REPEAT_SECONDS):
            self._shown_at = now
            self._write(self._line(now, note))

    def skip_to(self, done: int) -> None:
        """Moves to another step, for example that at which an interrupted job resumes."""
        self._skipped += done - self.done
        self.done = done

    def say(self, line: str) -> None:
        """Prints a line that stays, above the progress line."""
        self._shown_at = time.monotonic()
        self._write(line, end="\n")

    def close(self) -> None:
        """Ends the line; says how long a long job took."""
        elapsed = time.monotonic() - self._start
        if elapsed >= _QUIET_SECONDS:
            worked = self.done - self._skipped
            self._write(
                f"{self.label}: {counted(worked, *self._nouns)} in {duration(elapsed)}", "\n"
            )

    def _line(self, now: float, note: str) -> str:
        if self.total:
            percent = 100 * self.done // self.total
            status = f"{self.done}/{counted(self.total, *self._nouns)} ({percent}%)"
            seconds = self._seconds_per_step(now)
            if seconds is not None:
                status += f", {duration(seconds * (self.total - self.done))} left"
        else:
            worked = max(self.done - self._skipped, 1)
            rate = worked / (now - self._start)
            status = f"{counted(self.done, *self._nouns)}, {rate:.0f}/s"
        return f"{self.label}: {status}{'  ' + note if note else ''}"

    def _seconds_per_step(self, now: float) -> float | None:
        """Of all but the first, in which functions are traced and caches filled; None before."""
        if self._slow is None:
            return None
        since, first = self._slow
        worked = self.done - self._skipped - first
        return (now - since) / worked if worked > 0 else None

    def _write(self, line: str, end: str = "") -> None:
        if self._terminal:
            self.stream.write("\r" + line.ljust(self._width) + end)
            self._width = 0 if end else len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


@contextlib.contextmanager
def kept_back(*descriptors: int) -> Iterator[None]:
    """Keeps what is written to file descriptors off the terminal, also by C and C++ code.

    Within the block, other threads lose their output, too. If the block raises, all is shown.

    Args:
        *descriptors: 1 for standard output, 2 for standard error. One that is closed is left alone.
    """
    with contextlib.ExitStack() as stack:
        for descriptor in descriptors:
            stack.enter_context(_one_kept_back(descriptor))
        yield


@contextlib.contextmanager
def _one_kept_back(descriptor: int) -> Iterator[None]:
    with tempfile.TemporaryFile() as kept:
        try:
            with _redirected(descriptor, kept.fileno()):
                yield
        except Exception:
            kept.seek(0)
            with contextlib.suppress(OSError):  # it may be closed
                os.write(descriptor, kept.read())
            raise


@contextlib.contextmanager
def silenced(*descriptors: int) -> Iterator[None]:
    """Drops what is written to standard output (1) or standard error (2), by Python or others."""
    redirects = {1: contextlib.redirect_stdout, 2: contextlib.redirect_stderr}
    with open(os.devnull, "w") as nothing, contextlib.ExitStack() as stack:
        for descriptor in descriptors:
            stack.enter_context(_redirected(descriptor, nothing.fileno()))
            stack.enter_context(redirects[descriptor](nothing))
        yield


@contextlib.contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    """Sends what is written to a descriptor to another file; one that is closed is left alone.

    So, too, with that of Python's stream, which may have one of its own.
    """
    stream = sys.stdout if descriptor == 1 else sys.stderr
    before = {}
    for one in {descriptor, _descriptor_of(stream, descriptor)}:
        with contextlib.suppress(OSError):
            before[one] = os.dup(one), os.get_inheritable(one)
    if not before:
        yield
        return
    stream.flush()
    for one, (_, inherited) in before.items():
        os.dup2(target, one, inherited)
    try:
        yield
    finally:
        stream.flush()
        for one, (copy, inherited) in before.items():
            os.dup2(copy, one, inherited)
            os.close(copy)


def _descriptor_of(stream: TextIO, otherwise: int) -> int:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # closed at the start; in memory; closed since
        return otherwise


def track(
    items: Iterable[T], label: str, noun: str, nouns: str = "", *, total: int | None = None
) -> Iterator[T]:
    """Yields `items` and shows progress on standard error.

    Example:
        >>> sum(track([1, 2, 3], "add", "number"))
        6
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    progress = Progress(label, total, noun, nouns)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.close()


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Returns an aligned plain-text table; columns of numbers align right.

    Example:
        >>> print(table([["head", 0.84], ["top", 0.871]], ["phase", "accuracy"]))
        phase  accuracy
        -----  --------
        head       0.84
        top       0.871
    """
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in header]
    numeric = [bool(c) and all(isinstance(v, (int, float)) for v in c) for c in columns]
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(header, *text, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, text)])
