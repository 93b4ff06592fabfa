"""`ftkeras evaluate`."""

from __future__ import annotations

import json

from absl import flags

from ftkeras.cli.flags import define_bars, one_run, read_bars
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras evaluate RUN [--split=test] [--assert METRIC>=VALUE ...]
         ftkeras evaluate RUN --split=val --choose-thresholds=f1
Example: ftkeras evaluate runs/quickstart --split=val --assert 'accuracy>=0.85'
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_bars(values)
    flags.DEFINE_string("split", "test", "train, val or test", flag_values=values)
    flags.DEFINE_string(
        "choose-thresholds",
        None,
        "of labels: chooses on the split from which score on each counts: f1, precision:0.9 or "
        "recall:0.9; the run keeps them",
        flag_values=values,
    )
    flags.DEFINE_boolean("json", False, "print all metrics as JSON", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    folder, bars = one_run(positional, "evaluate"), read_bars(values)
    import_tensorflow()
    from ftkeras.evaluation.bars import require
    from ftkeras.run import Run
    from ftkeras.runs.finished import evaluate
    from ftkeras.runs.task import task_of

    run = Run.open(folder)
    task = task_of(run.config)
    task.check_bars(bars, run.read_json("data.json"))
    results = evaluate(run, values.split, values["choose-thresholds"].value)
    print(json.dumps(results) if values.json else task.format_results(results))
    require(bars, results)
    return 0
