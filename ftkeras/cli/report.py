"""`ftkeras report`."""

from __future__ import annotations

from absl import flags

from ftkeras.cli.flags import define_moved
from ftkeras.cli.quiet import import_tensorflow
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras report RUN [RUN ...] [--out=FILE.html]
Example: ftkeras report runs/quickstart
         ftkeras report runs/a runs/b --out=compared.html
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_moved(values)
    flags.DEFINE_string(
        "out",
        None,
        "the HTML file; default: report.html, in the run's folder or (several runs) here",
        flag_values=values,
    )


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if not positional:
        raise UserError("report: expected one run folder or more, got none.")
    import_tensorflow()
    from ftkeras.run import Run
    from ftkeras.runs.finished import write_report

    print(write_report([Run.open(folder, values.set) for folder in positional], values.out))
    return 0
