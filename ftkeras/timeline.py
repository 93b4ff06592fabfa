"""Where the time of a command goes: named stages, a table of them, and a trace to look at.

Stages nest. In the table the time of a stage within another counts for the inner one alone, so the
rows add up to the whole command. Until `recording` is entered, a stage costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ftkeras.console import table

_SAMPLE_SECONDS = 0.1
_START, _REST = "start of Python", "everything else"
_recording: Timeline | None = None


@dataclass
class Timeline:
    """The stages of one process, from its start.

    Clock times are seconds since the process began; processor times are of all its threads, and of
    processes that it started and that have ended.
    """

    spans: list[tuple[str, int, float, float]] = field(default_factory=list)
    """Name, thread, begin and end of each stage that has ended."""
    busy: list[tuple[float, float]] = field(default_factory=list)
    """How many cores this process used, by time."""
    _open: list[str] = field(default_factory=lambda: [_START])
    _spent: dict[str, list[float]] = field(default_factory=dict)
    _born: float = field(default_factory=lambda: time.monotonic() - _age())
    _turned: tuple[float, float] = (0.0, 0.0)

    def now(self) -> float:
        """Returns the seconds since the process began."""
        return time.monotonic() - self._born

    @property
    def stage(self) -> str:
        """The innermost stage of the main thread now."""
        return self._open[-1]

    def enter(self, name: str) -> None:
        """Begins a stage of the main thread."""
        self._turn()
        self._open.append(name)

    def leave(self) -> None:
        """Ends the innermost stage of the main thread."""
        self._turn()
        self._open.pop()

    def rename(self, name: str) -> None:
        """Books the time from now on for another name, within the same stage."""
        self._turn()
        self._open[-1] = name

    def rows(self) -> list[tuple[str, float, float]]:
        """Returns name, seconds by the clock, and processor seconds of each stage, in order."""
        self._turn()
        names = [*(name for name in self._spent if name != _REST), _REST]
        return [(name, self._spent[name][0], self._spent[name][1]) for name in names]

    def as_table(self) -> str:
        """Returns the table that a person reads."""
        rows = self.rows()
        whole, cpu = (sum(column) for column in list(zip(*rows, strict=True))[1:])
        lines = [
            (name, _seconds(clock), f"{clock / whole:.0%}", _seconds(used), f"{used / clock:.1f}")
            for name, clock, used in (*rows, ("all", whole, cpu))
            if clock >= 0.05
        ]
        return table(lines, ("stage", "clock", "share", "processor", "cores busy"))

    def write(self, path: str) -> str:
        """Writes the trace, and returns where it is."""
        from ftkeras.files import write_whole  # it imports TensorFlow

        write_whole(path, json.dumps(self.as_trace()))
        return path

    def as_trace(self) -> dict[str, Any]:
        """Returns the trace in Chrome's JSON form, which ui.perfetto.dev opens."""
        pid = os.getpid()
        stages = [
            {"name": n, "ph": "X", "pid": pid, "tid": t, "ts": _micro(a), "dur": _micro(b - a)}
            for n, t, a, b in sorted(self.spans, key=lambda span: (span[2], -span[3]))
        ]
        cores = [
            {"name": "cores busy", "ph": "C", "pid": pid, "ts": _micro(at), "args": {"cores": used}}
            for at, used in self.busy
        ]
        return {"traceEvents": [*stages, *cores], "displayTimeUnit": "ms"}

    def sample(self, over: threading.Event) -> None:
        """Notes how many cores are busy, until it is over."""
        at, used = self.now(), _processor_seconds()
        while not over.wait(_SAMPLE_SECONDS):
            now, more = self.now(), _processor_seconds()
            self.busy.append((at, round((more - used) / (now - at), 2)))
            at, used = now, more

    def _turn(self) -> None:
        """Books the time since the last turn for the innermost stage."""
        now, used = self.now(), _processor_seconds()
        spent = self._spent.setdefault(self._open[-1], [0.0, 0.0])
        spent[0] += now - self._turned[0]
        spent[1] += used - self._turned[1]
        self._turned = now, used


class stage(contextlib.ContextDecorator):  # noqa: N801 - reads like contextlib's own
    """Names what a block or a function does, for the timeline if one is recorded.

    Example:
        >>> with stage("read the table"):
        ...     rows = list(range(3))
    """

    def __init__(self, name: str):
        self.name = name
        self._began: list[float] = []

    def __enter__(self) -> None:
        if _recording is not None:
            self._began.append(_recording.now())
            if _in_main_thread():
                _recording.enter(self.name)

    def __exit__(self, *_: object) -> None:
        if _recording is not None and self._began:
            span = self.name, threading.get_ident(), self._began.pop(), _recording.now()
            _recording.spans.append(span)
            if _in_main_thread():
                _recording.leave()

    def _recreate_cm(self) -> stage:
        return type(self)(self.name)  # functions may call themselves, in several threads


@contextlib.contextmanager
def recording() -> Iterator[Timeline]:
    """Within the block, stages are recorded; what came before in this process is one of them.

    Example:
        ```python
        with recording() as timeline, stage("train"):
            model.fit(...)
        print(timeline.as_table())
        ```
    """
    global _recording
    _recording = timeline = Timeline()
    timeline.spans.append((_START, threading.get_ident(), 0.0, timeline.now()))
    timeline.rename(_REST)
    over = threading.Event()
    sampler = threading.Thread(target=timeline.sample, args=[over], daemon=True)
    sampler.start()
    try:
        yield timeline
    finally:
        over.set()
        sampler.join()
        _recording = None


def recorded() -> Timeline | None:
    """Returns the timeline that is being recorded, if one is."""
    return _recording


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _micro(seconds: float) -> int:
    return round(1e6 * seconds)


def _processor_seconds() -> float:
    """Of this process, and of those that it started and that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _age() -> float:
    """Returns for how many seconds this process has run; 0 if the system does not report it."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        booted = time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
