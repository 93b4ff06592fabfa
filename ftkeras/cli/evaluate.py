"""`ftkeras evaluate`."""

from __future__ import annotations

import json
import sys

from absl import flags

from ftkeras.cli.flags import define_bars, define_moved, one_run, read_bars
from ftkeras.cli.quiet import import_tensorflow
from ftkeras.console import counted
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras evaluate RUN [--split=SPLIT] [--data=FOLDER-OR-TABLE]
                        [--assert METRIC>=VALUE ...] [--set data.path=PATH]
         ftkeras evaluate RUN --split=val --choose-thresholds=f1
Example: ftkeras evaluate runs/quickstart --split=val --assert 'accuracy>=0.85'
         ftkeras evaluate runs/quickstart --data=new-photos/

With --data the model is measured on other labelled examples; evaluation.json is not changed.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_bars(values)
    define_moved(values)
    flags.DEFINE_string(
        "split", None, "train, val or test; default: test, or what there is", flag_values=values
    )
    flags.DEFINE_string(
        "data",
        None,
        "new labelled examples: a folder with one folder per class, a .csv or a .jsonl file",
        flag_values=values,
    )
    flags.DEFINE_string(
        "choose-thresholds",
        None,
        "for labels: chooses the threshold of each on the split: f1, precision:0.9 or "
        "recall:0.9; the run keeps them",
        flag_values=values,
    )
    flags.DEFINE_boolean("json", False, "print all metrics as JSON", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    folder, bars = one_run(positional, "evaluate"), read_bars(values)
    aim = values["choose-thresholds"].value
    if aim and values.data:
        raise UserError(
            "evaluate: --choose-thresholds is for the run's own splits, not for --data."
        )
    import_tensorflow()
    from ftkeras.evaluation.bars import require
    from ftkeras.measures.results import format_results
    from ftkeras.run import Run
    from ftkeras.runs.finished import evaluate
    from ftkeras.runs.new_data import evaluate_on
    from ftkeras.runs.task import task_of

    run = Run.open(folder, values.set)
    task = task_of(run.config)
    task.check_bars(bars, run.read_json("data.json"))
    if values.data is None:
        results = evaluate(run, values.split, aim)
        text = task.format_results(results)
    else:
        results = evaluate_on(run, values.data, values.split or "test")
        text = format_results(results)
        if results["left_out"]:
            unreadable = counted(results["left_out"], "file")
            print(f"note      {unreadable} left out, which cannot be used", file=sys.stderr)
    print(json.dumps(results) if values.json else text)
    require(bars, results)
    return 0
