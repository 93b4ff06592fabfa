"""`ftkeras compare`."""

from __future__ import annotations

import json

from absl import flags

from ftkeras.cli.quiet import import_tensorflow
from ftkeras.console import counted
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras compare A B [--split=SPLIT]
Example: ftkeras compare runs/head-only runs/two-phases
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string(
        "split", None, "train, val or test; default: what A was measured on", flag_values=values
    )
    flags.DEFINE_boolean("json", False, "print the result as JSON", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if len(positional) != 2:
        raise UserError(
            f"compare: expected two run folders, got {counted(len(positional), 'argument')}."
        )
    import_tensorflow()
    from ftkeras.evaluation.comparison import compare_runs, format_comparison
    from ftkeras.run import Run

    first, second = (Run.open(folder) for folder in positional)
    results = compare_runs(first, second, values.split)
    print(json.dumps(results) if values.json else format_comparison(results))
    return 0
