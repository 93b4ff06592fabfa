"""How much memory the process has taken, and how much is free."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from pathlib import Path

_UNKNOWN = 4 << 30  # bytes taken to be free if the system does not report it


def peak_memory() -> int:
    """Returns the most bytes that the process has held so far; 0 if that is unknown."""
    # Linux's getrusage also counts what the parent held when it started this process.
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(match[1]) << 10
    try:
        import resource
    except ImportError:  # not a Unix system
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def peak_memory_record() -> dict[str, float]:
    """Returns `peak_memory_mb`, for the record; {} if unknown."""
    peak = peak_memory()
    return {"peak_memory_mb": round(peak / 1e6, 1)} if peak else {}


def available_memory() -> int:
    """Bytes of memory that this process may still take, as far as the system says."""
    free = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    with contextlib.suppress(OSError, ValueError):  # what `ulimit -v` leaves
        limit_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit_bytes != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            free.append(max(limit_bytes - pages * resource.getpagesize(), 0))
    if not free and "SC_PHYS_PAGES" in os.sysconf_names:
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(free, default=_UNKNOWN)
