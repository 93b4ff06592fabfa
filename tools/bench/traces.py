"""Which functions TensorFlow traces in a run, how often, and how long that takes.

    python tools/bench/traces.py --config=configs/two_phases.yaml [--set FIELD=VALUE ...]

It runs `ftkeras train` in this process, with the flags given, into a temporary folder. What is
traced within another function counts for that one. Functions under 0.05 s are one row per stage.
Times are of the processor.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ftkeras.cli.quiet import import_tensorflow  # noqa: E402
from ftkeras.console import table  # noqa: E402
from ftkeras.timeline import recorded  # noqa: E402

_SHOWN = 0.05  # seconds
Key = tuple[str, str]


def main() -> None:
    """Trains, and prints the table."""
    import_tensorflow()
    found: dict[Key, list[float]] = {}
    watch(found)
    from ftkeras.cli.main import main as command

    with tempfile.TemporaryDirectory() as folder:
        status = command(["train", *sys.argv[1:], f"--out={folder}/run", "--profile"])
    rows: list[tuple[str, str, int, str]] = []
    for stage in dict.fromkeys(stage for stage, _ in found):
        own = {name: times for (where, name), times in found.items() if where == stage}
        long = {name: times for name, times in own.items() if sum(times) >= _SHOWN}
        rows += [(stage, name, len(times), f"{sum(times):.2f} s") for name, times in long.items()]
        short = [t for name, times in own.items() if name not in long for t in times]
        if short:
            rows.append((stage, "shorter ones", len(short), f"{sum(short):.2f} s"))
    rows.append(
        ("all", "", sum(map(len, found.values())), f"{sum(map(sum, found.values())):.2f} s")
    )
    print(f"\n{table(rows, ('stage', 'function', 'traced', 'took'))}")
    sys.exit(status)


def watch(found: dict[Key, list[float]]) -> None:
    """From now on notes each outermost function that is traced, by stage and name."""
    from tensorflow.python.framework import func_graph

    trace, depth = func_graph.func_graph_from_py_func, 0

    def traced(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        nonlocal depth
        start, timeline = time.thread_time(), recorded()
        stage = timeline.stage if timeline else ""
        depth += 1
        try:
            return trace(name, function, *args, **options)
        finally:
            depth -= 1
            if not depth:
                found.setdefault((stage, name), []).append(time.thread_time() - start)

    for module in list(sys.modules.values()):
        if getattr(module, "func_graph_from_py_func", None) is trace:
            module.func_graph_from_py_func = traced  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
