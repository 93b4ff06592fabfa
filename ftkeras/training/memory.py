"""How much memory the process has taken."""

from __future__ import annotations

import sys


def memory() -> dict[str, float]:
    """Returns `peak_memory_mb`, the most the process has held so far; nothing where unknown."""
    try:
        import resource
    except ImportError:  # not a Unix system
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in kilobytes of 1024 bytes, macOS in bytes.
    return {"peak_memory_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)}
