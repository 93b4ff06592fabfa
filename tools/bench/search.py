"""How long `ftkeras search` takes among many pictures, once they are indexed.

    ftkeras train --config=configs/alignment.yaml --out=runs/alignment
    python tools/bench/search.py runs/alignment [--pictures=100000] [--runs=5]

Makes a folder of so many files, and an index of them by the verb's own code; only the network's
answers are made up, because what it takes to encode 100,000 pictures is another figure. Then times

    again     what the verb does with a loaded model: look at each file, read the index, encode the
              text, rank all pictures
    search    the whole command `ftkeras search`, which loads the model first
    import    a process that imports TensorFlow and Keras, which no search can avoid

The two processes alternate. Processor time is what is left of a busy machine's noise; with two
cores it may be more than the time that passes. Files are tiny: no picture is read again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from startup import process

from ftkeras.console import table
from ftkeras.run import Run
from ftkeras.tasks.alignment.retrieval import unit
from ftkeras.tasks.alignment.search import Index, Searcher

ROOT = Path(__file__).resolve().parents[2]
TEXT = "a red fruit"
SHOWN = (statistics.median, min, max)


class MadeUp(Searcher):
    """Encodes pictures by chance."""

    def _encode(self, index: Index, places: Sequence[int]) -> None:
        random = np.random.default_rng(0)
        index.vectors[places] = unit(random.normal(size=(len(places), index.vectors.shape[1])))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FTKERAS_CACHE"] = f"{scratch}/cache"
        folder = Path(scratch, "photos")
        fill(folder, options.pictures)
        searcher = MadeUp(Run.open(options.run))
        searcher.index([str(folder)])
        command = ["-m", "ftkeras", "search", options.run, TEXT, str(folder)]
        searcher.encode(TEXT)  # the first one traces
        ways: dict[str, Callable[[], object]] = {
            "again": lambda: searcher.index([str(folder)]).best(searcher.encode(TEXT), 10),
            "search": lambda: process(command),
            "import": lambda: process(["-c", "import tensorflow, keras"]),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(options.runs):
            for name, way in ways.items():
                times[name].append(timed(way))
        print(python(command).splitlines()[-1])
    rows = [
        (name, *(f"{f(each):.2f} s" for each in zip(*both, strict=True) for f in SHOWN))
        for name, both in times.items()
    ]
    heads = ("median", "lowest", "highest")
    print(table(rows, ("what", *heads, *(f"processor, {head}" for head in heads))))


def python(arguments: Sequence[str]) -> str:
    """Runs a Python process and returns what it told on standard error."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    return done.stderr


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Returns how long something took, and its processor time, that of its processes included."""
    start, before = time.perf_counter(), os.times()
    work()
    return time.perf_counter() - start, sum(os.times()[:4]) - sum(before[:4])


def fill(folder: Path, count: int) -> None:
    """Writes files in folders of 1,000, each with another content."""
    for i in range(count):
        if i % 1000 == 0:
            (folder / f"{i // 1000:04d}").mkdir(parents=True)
        (folder / f"{i // 1000:04d}" / f"{i:06d}.png").write_bytes(str(i).encode())


if __name__ == "__main__":
    main()
