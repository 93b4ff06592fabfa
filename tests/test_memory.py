"""The peak is this process's own."""

from __future__ import annotations

import subprocess
import sys

from ftkeras.memory import peak_memory, peak_memory_record


def test_what_the_parent_held_is_not_counted():
    held = bytearray(400 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    assert peak_memory() > 400 << 20
    assert peak_memory_record()["peak_memory_mb"] > 419
    # getrusage says 400 MB in the child, too.
    code = "from ftkeras.memory import peak_memory; print(peak_memory())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(said.stdout) < 200 << 20
