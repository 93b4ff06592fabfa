"""How much memory the process has taken."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_memory() -> int:
    """Returns the most bytes that the process has held so far; 0 where that is unknown."""
    # Linux's getrusage also counts what the parent held when it started this process.
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) << 10
    try:
        import resource
    except ImportError:  # not a Unix system
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def peak_memory_record() -> dict[str, float]:
    """Returns `peak_memory_mb`, for the record; nothing where unknown."""
    peak = peak_memory()
    return {"peak_memory_mb": round(peak / 1e6, 1)} if peak else {}
