"""`ftkeras predict`."""

from __future__ import annotations

import sys

from absl import flags

from ftkeras.cli.quiet import import_tensorflow
from ftkeras.console import counted
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras predict RUN FILE|FOLDER|PATTERN|- ... [--out=FILE] [--top_k=5]
Example: ftkeras predict runs/quickstart photos/ --out=predictions.csv --top_k=3
         find photos -name '*.jpg' | ftkeras predict runs/quickstart -

With - the names come from standard input, one per line.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string(
        "out", None, "a .csv or .jsonl file; left out, print CSV", flag_values=values
    )
    flags.DEFINE_integer("top_k", 5, "classes for each image", 1, flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if len(positional) < 2:
        raise UserError("predict: expected a run folder and at least one file, folder or pattern.")
    names = [name for word in positional[1:] for name in _names(word)]
    import_tensorflow()
    from ftkeras.evaluation.predict import expand_inputs
    from ftkeras.evaluation.writer import write_predictions
    from ftkeras.run import Run
    from ftkeras.runs.build import input_of
    from ftkeras.runs.finished import predict

    run = Run.open(positional[0])
    files = expand_inputs(names, input_of(run.config))
    rows = predict(run, files, values.top_k)
    answered, failed = write_predictions(values.out, rows)
    unreadable = f", {failed} could not be read (see the error column)" if failed else ""
    print(f"{counted(answered, 'file')} answered{unreadable}", file=sys.stderr)
    return 0


def _names(argument: str) -> list[str]:
    """Returns what an argument stands for: itself, or for `-` the lines of standard input."""
    if argument != "-":
        return [argument]
    try:
        names = [name for name in sys.stdin.read().splitlines() if name]
    except UnicodeDecodeError as error:
        raise UserError(f"predict: standard input is not a list of names: {error}.") from None
    if not names:
        raise UserError("predict: standard input has no names; give one per line.")
    return names
