"""`ftkeras search`."""

from __future__ import annotations

import json
import sys
import time

from absl import flags

from ftkeras.cli.quiet import import_tensorflow
from ftkeras.console import counted, duration
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras search RUN TEXT FILE|FOLDER|PATTERN ... [--top_k=10] [--json]
Example: ftkeras search runs/alignment "a red fruit" photos/

RUN is one of the task alignment. What was encoded once is kept in the cache folder: the next search
reads only pictures that are new or have changed.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_integer("top_k", 10, "how many pictures", 1, flag_values=values)
    flags.DEFINE_boolean("json", False, "print the result as JSON", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if len(positional) < 3:
        raise UserError("search: expected a run folder, a text, and at least one folder or file.")
    import_tensorflow()
    from ftkeras.run import Run
    from ftkeras.tasks.alignment.search import Searcher

    folder, text, *places = positional
    searcher = Searcher(Run.open(folder))
    query = searcher.encode(text)  # first: a text that is refused should cost no time
    index = searcher.index(places)
    start = time.perf_counter()
    found = index.best(query, values.top_k)
    took = time.perf_counter() - start
    if values.json:
        print(json.dumps([{"file": file, "score": round(score, 6)} for file, score in found]))
    else:
        for file, score in found:
            print(f"{score:.4f}  {file}")
    ranked = counted(len(index.sound()), "picture")
    print(f"{ranked} ranked in {duration(took)}", file=sys.stderr)
    return 0
