"""Leaves known remarks of C and C++ libraries out of what the command prints.

They write to file descriptor 2 themselves, with no name of a file and no level to set. So while a
command runs, descriptor 2 is a pipe, and a small process passes on what comes through it. A
process, not a thread: the last words of a crash come through, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ftkeras.console import counted

SHOW = "FTKERAS_REMARKS"  # the environment's variable that shows them all

# The first words of lines, and why each may be left out. Of images:
ON_IMAGES = {
    r"Corrupt JPEG data: |Inconsistent progression sequence for component |Invalid SOS parameters "
    r"for sequential JPEG$|Warning: unknown JFIF revision number ": "libjpeg, on an image that is "
    "odd but readable: it is used, and looks as in other programs",
    r"Bogus (D[AHQ]\w|Huffman table|marker length|sampling factors)|"
    r"(Huffman|Quantization) table 0x\w+ was not defined$|Improper call to JPEG library in state |"
    r"Input file read error$|Invalid (JPEG file structure: |component ID |progressive parameters )|"
    r"Unsupported (JPEG|marker type) ": "libjpeg, on an image that it cannot read: it is listed by "
    "its name, with the reason",
}
# Of the rest:
OF_TENSORFLOW = {
    r"WARNING: All log messages before absl::InitializeLog": "a heading, of lines that are hidden",
    r"[IW]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\] ": "TF_CPP_MIN_LOG_LEVEL hides these, once read",
}
_SOON = 0.1  # seconds that the rest of a line may take
_LONGEST = 4096  # bytes of a line that are held back for its rest
_END = 0.5  # seconds to wait for the last lines, if a process that was started still runs


@contextmanager
def remarks_left_out() -> Iterator[None]:
    """Within the block, known remarks that C and C++ code writes to standard error are left out.

    Python's own standard error stays what it was, a terminal for example. Nothing changes on a
    system that cannot fork, if something has replaced standard error, as tests do, or if
    FTKERAS_REMARKS is set.
    """
    stderr: Any = sys.stderr
    is_own = stderr is sys.__stderr__
    if not (is_own and stderr.fileno() == 2 and hasattr(os, "fork")) or os.environ.get(SHOW):
        yield
        return
    try:
        real, reader = _start()
    except OSError:  # no more processes, or no more files
        yield
        return
    kept = open(real, "w", 1, stderr.encoding, stderr.errors, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = kept  # type: ignore[misc]
    try:
        yield
    finally:
        os.dup2(real, 2)
        _wait(reader)


def _start() -> tuple[int, int]:
    """Returns a descriptor of the real standard error, and the id of the process that reads."""
    import fcntl  # Windows has none

    real = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    source, pipe = os.pipe()
    known = ON_IMAGES if "TF_CPP_MIN_LOG_LEVEL" in os.environ else ON_IMAGES | OF_TENSORFLOW
    # The reader ends with the pipe and by no signal: Ctrl-C goes to it, too.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        reader = os.fork()
        if reader == 0:
            try:
                _pass_on(source, real, known)
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.dup2(pipe, 2)
    os.close(source)
    os.close(pipe)
    return real, reader


def _wait(reader: int) -> None:
    end = time.monotonic() + _END
    with contextlib.suppress(ChildProcessError):  # already waited for
        while not os.waitpid(reader, os.WNOHANG)[0] and time.monotonic() < end:
            time.sleep(0.001)


def _pass_on(source: int, target: int, known: Mapping[str, str]) -> None:
    """Copies lines until the pipe is closed, without those that are known; counts these."""
    os.dup2(source, 0)
    os.dup2(target, 1)
    os.closerange(2, 1024)  # the pipe's other end; what others lock, or wait for
    sieve = Sieve(known)
    while True:
        ready = select.select([0], [], [], _SOON if sieve.held else None)[0]
        piece = os.read(0, 1 << 16) if ready else b""
        _write(sieve.sift(piece, late=not piece))
        if ready and not piece:
            break
    if sieve.on_images:
        start = "\n" if sieve.begun else ""
        remarks = counted(sieve.on_images, "remark")
        shown = f"{SHOW}=1 shows {'it' if sieve.on_images == 1 else 'them'}"
        _write(f"{start}note      {remarks} of libraries on images left out; {shown}\n".encode())


def _write(output: bytes) -> None:
    with contextlib.suppress(OSError):  # the terminal is closed; the pipe must not fill up
        while output:
            output = output[os.write(1, output) :]


class Sieve:
    """Drops known lines of a stream.

    Args:
        known: Patterns of how they begin, and the reasons.

    Example:
        >>> sieve = Sieve({"Warning: ": "an example"})
        >>> sieve.sift(b"Warning: odd\\nbroken\\nhal"), sieve.sift(b"f\\n")
        (b'broken\\n', b'half\\n')
    """

    def __init__(self, known: Mapping[str, str]):
        self._known = re.compile("|".join(known).encode())
        self._of_images = re.compile("|".join(ON_IMAGES).encode())
        self.begun = False  # whether the first part of a line was passed on
        self.held = b""  # what is still waited for
        self.on_images = 0

    def sift(self, piece: bytes, late: bool = False) -> bytes:
        """Returns what to print now.

        Args:
            piece: What came.
            late: Whether the rest of a line is no longer waited for.
        """
        *lines, self.held = (self.held + piece).split(b"\n")
        passed = b""
        for line in lines:
            if self.begun or not self._known.match(line):
                passed += line + b"\n"
            elif self._of_images.match(line):
                self.on_images += 1
            self.begun = False
        late = late and not self._known.match(self.held)
        if self.held and (self.begun or late or len(self.held) > _LONGEST):
            passed, self.held, self.begun = passed + self.held, b"", True
        return passed
