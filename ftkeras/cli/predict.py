"""`ftkeras predict`."""

from __future__ import annotations

import sys

from absl import flags

from ftkeras.cli.quiet import import_tensorflow
from ftkeras.console import counted
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras predict RUN FILE|FOLDER|PATTERN|- ... [--out=FILE] [--top_k=5]
         ftkeras predict RUN FILE ... --labels=LABEL,LABEL,...
Example: ftkeras predict runs/quickstart photos/ --out=predictions.csv --top_k=3
         find photos -name '*.jpg' | ftkeras predict runs/quickstart -
         ftkeras predict runs/reviews new.csv
         echo "a fine film" | ftkeras predict runs/reviews -

With - the names of files come from standard input, one per line; for a model of texts, the texts.
A table (.csv, .tsv, .jsonl) gives a text for each line. A run of the task alignment
classifies pictures by any words: name them by --labels.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string(
        "out", None, "a .csv or .jsonl file; left out, print CSV", flag_values=values
    )
    flags.DEFINE_list(
        "labels",
        [],
        "classes to tell apart, of a run of the task alignment",
        flag_values=values,
    )
    flags.DEFINE_integer("top_k", 5, "classes for each example", 1, flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if len(positional) < 2:
        raise UserError("predict: expected a run folder and at least one file, folder or pattern.")
    lines = _lines() if "-" in positional[1:] else []
    import_tensorflow()
    from ftkeras.evaluation.predict import Asked, RawExample, expand_inputs
    from ftkeras.evaluation.writer import write_predictions
    from ftkeras.run import Run
    from ftkeras.runs.build import input_of
    from ftkeras.runs.finished import predict

    run = Run.open(positional[0])
    kind = input_of(run.config)
    asked: list[Asked] = []
    for word in positional[1:]:
        if word == "-" and kind.cells:
            # An empty line gets a row with an error, so that rows match lines.
            asked += [RawExample(f"line {i}", line) for i, line in enumerate(lines, 1)]
        else:
            names = _names(lines) if word == "-" else [word]
            asked += expand_inputs(names, kind, lambda line: print(line, file=sys.stderr))
    rows = predict(run, asked, values.top_k, values.labels)
    answered, failed = write_predictions(values.out, rows)
    unreadable = f", {failed} could not be read (see the error column)" if failed else ""
    noun = kind.noun if kind.cells else "file"
    print(f"{counted(answered, noun)} answered{unreadable}", file=sys.stderr)
    return 0


def _lines() -> list[bytes]:
    """Returns the lines of standard input; at least one is not empty."""
    lines = [line.rstrip(b"\r") for line in sys.stdin.buffer.read().split(b"\n")]
    if not lines[-1]:  # the text after the last end of a line
        lines.pop()
    if not any(lines):
        raise UserError("predict: standard input is empty; give one name, or text, per line.")
    return lines


def _names(lines: list[bytes]) -> list[str]:
    try:
        return [line.decode() for line in lines if line]
    except UnicodeDecodeError as error:
        raise UserError(f"predict: standard input is not a list of names: {error}.") from None
