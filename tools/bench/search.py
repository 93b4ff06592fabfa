"""How long a query of `ftkeras search` takes if a folder of many pictures has its index.

    python tools/bench/search.py [--pictures=100000] [--queries=5]

Trains a small run on the shipped emoji. The folder has that many files of a few bytes; their
vectors are random unit vectors, put into the index that the run's search keeps. The query is the
path that the command takes: list the folder, compare the size and time of each file, load the
index, encode the text, rank all. Importing TensorFlow and loading the model come before, and are
not in it. Prints the median and the slowest of the queries, by part, in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

SHOWN = 10


def main() -> None:
    """Makes folder and index, asks, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=5)
    options = parser.parse_args()
    from ftkeras.console import table

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FTKERAS_CACHE"] = f"{scratch}/cache"
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        times = measure(scratch, options.pictures, options.queries)
    rows = [
        (part, *(f"{1000 * of(values):.0f}" for of in (statistics.median, max)))
        for part, values in times.items()
    ]
    print(table(rows, (f"{options.pictures:,} pictures", "median ms", "slowest ms")))


def measure(scratch: str, pictures: int, queries: int) -> dict[str, list[float]]:
    """Returns the seconds of each query, by part."""
    import numpy as np

    import ftkeras
    from ftkeras.config.load import load_config
    from ftkeras.tasks.alignment import search
    from ftkeras.tasks.alignment.retrieval import unit
    from ftkeras.tasks.alignment.search import Searcher

    config = Path(__file__).parents[2] / "configs" / "alignment.yaml"
    changes = ["data.input.size=32", "backbone.cut=block_2_add", "phases[0].epochs=1"]
    small = load_config(str(config), [*changes, "export.saved_model=false", "report=false"])
    searcher = Searcher(ftkeras.train(small, f"{scratch}/run"))
    folder = Path(scratch, "photos")
    for i in range(pictures):
        file = folder / f"{i // 1000:04}" / f"{i:08}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(i.to_bytes(8, "big"))
    vectors = np.random.default_rng(0).normal(size=(pictures, small.alignment.units))

    def encode(self: Searcher, index: search.Index, places: object) -> None:
        index.vectors[:] = unit(vectors)

    with (
        mock.patch.object(Searcher, "_encode", encode),
        mock.patch.object(search, "_content", os.path.basename),
    ):
        searcher.index([str(folder)])
    times: dict[str, list[float]] = {"list, compare, load": [], "encode the text": [], "rank": []}
    for query in range(queries):
        marks = [time.perf_counter()]
        index = searcher.index([str(folder)])
        marks.append(time.perf_counter())
        vector = searcher.encode(f"a red fruit {query}")
        marks.append(time.perf_counter())
        assert len(index.best(vector, SHOWN)) == SHOWN
        marks.append(time.perf_counter())
        for place, values in enumerate(times.values()):
            values.append(marks[place + 1] - marks[place])
    times["all"] = [sum(parts) for parts in zip(*times.values(), strict=True)]
    return times


if __name__ == "__main__":
    main()
