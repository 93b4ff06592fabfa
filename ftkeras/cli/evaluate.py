"""`ftkeras evaluate`."""

from __future__ import annotations

import json

from absl import flags

from ftkeras.cli.flags import one_run
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras evaluate RUN [--split=test]
Example: ftkeras evaluate runs/quickstart --split=val
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string("split", "test", "train, val or test", flag_values=values)
    flags.DEFINE_boolean("json", False, "print all metrics as JSON", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    folder = one_run(positional, "evaluate")
    import_tensorflow()
    from ftkeras.evaluation.results import format_results
    from ftkeras.tasks import classification
    from ftkeras.training.run import Run

    split = values.split
    results = classification.evaluate(Run.open(folder), split)
    print(json.dumps(results) if values.json else format_results(results))
    return 0
