"""How long `ftkeras search` takes among many pictures, once they are indexed.

    ftkeras train --config=configs/alignment.yaml --out=runs/alignment
    python tools/bench/search.py runs/alignment [--pictures=100000] [--runs=5]

Makes a folder of so many files, and an index of them by the verb's own code; only the network's
answers are made up, because what it takes to encode 100,000 pictures is another figure. Then times

    again     what the verb does with a loaded model: look at each file, read the index, encode the
              text, rank all pictures
    search    the whole command `ftkeras search`, which loads the model first
    import    a process that imports TensorFlow and Keras, which no search can avoid

The two processes alternate. Files are tiny: no picture is read once it is indexed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from startup import seconds

from ftkeras.console import table
from ftkeras.run import Run
from ftkeras.tasks.alignment.retrieval import unit
from ftkeras.tasks.alignment.search import Index, Searcher

TEXT = "a red fruit"


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
        times: dict[str, list[float]] = {name: [] for name in ("again", "search", "import")}
        for _ in range(options.runs):
            start = time.perf_counter()
            searcher.index([str(folder)]).best(searcher.encode(TEXT), 10)
            times["again"].append(time.perf_counter() - start)
            times["search"].append(seconds(command))
            times["import"].append(seconds(["-c", "import tensorflow, keras"]))
        told = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        print(told.stderr.splitlines()[-1])
    rows = [
        (name, *(f"{f(values):.2f} s" for f in (statistics.median, min, max)))
        for name, values in times.items()
    ]
    print(table(rows, ("what", "median", "lowest", "highest")))


def fill(folder: Path, count: int) -> None:
    """Writes files in folders of 1,000, each with another content."""
    for i in range(count):
        if i % 1000 == 0:
            (folder / f"{i // 1000:04d}").mkdir(parents=True)
        (folder / f"{i // 1000:04d}" / f"{i:06d}.png").write_bytes(str(i).encode())


if __name__ == "__main__":
    main()
