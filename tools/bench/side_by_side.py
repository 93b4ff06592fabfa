"""A command of ftkeras here and in another checkout: how long whole processes take.

    python tools/bench/side_by_side.py [--pairs 3] [--cache] OTHER COMMAND ...
    python tools/bench/side_by_side.py ../old train --config=configs/quickstart.yaml --out=OUT

Both alternate. OUT in the command becomes a new folder each time. Each process has an empty cache;
with --cache each checkout has one of its own, which a run before the first pair fills. Processor
time, of all cores and of all processes, is steadier on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ftkeras.console import table

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="a checkout of another version")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cache", action="store_true", help="keep a cache from run to run")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    folders, times = (options.other.resolve(), ROOT), []
    with tempfile.TemporaryDirectory() as scratch:
        for pair in range(-int(options.cache), options.pairs):
            both = [
                seconds(folder, options.command, Path(scratch, f"{pair} {i}"), cache)
                for i, folder in enumerate(folders)
                for cache in [Path(scratch, f"cache {i}" if options.cache else f"cache {pair} {i}")]
            ]
            times += [both] if pair >= 0 else []
    rows = []
    for i, name in enumerate(("clock", "processor")):
        before, after = ([both[side][i] for both in times] for side in (0, 1))
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        medians = [f"{statistics.median(column):.1f} s" for column in (before, after)]
        rows.append([name, *medians, *(f"{f(ratios):.2f}" for f in (statistics.median, min, max))])
    print(table(rows, ("", "the other", "this version", "ratio", "lowest", "highest")))
    print(f"{' '.join(options.command)}; {options.pairs} alternating pairs")


def seconds(folder: Path, command: list[str], out: Path, cache: Path) -> tuple[float, float]:
    """Runs the command in a checkout; returns the seconds by the clock, and of all processors."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "FTKERAS_CACHE": str(cache)}
    arguments = [argument.replace("OUT", str(out)) for argument in command]
    start, used = time.perf_counter(), processor_seconds()
    subprocess.run(
        [sys.executable, "-m", "ftkeras", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=True,
    )
    return time.perf_counter() - start, processor_seconds() - used


def processor_seconds() -> float:
    """Returns what all processes that have ended took of all processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
