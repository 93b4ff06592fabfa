"""`ftkeras export`."""

from __future__ import annotations

from absl import flags

from ftkeras.cli.flags import one_run
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras export RUN [--out=FOLDER]
Example: ftkeras export runs/quickstart --out=/models/garments
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string("out", None, "where versions go; left out, RUN/export", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    folder = one_run(positional, "export")
    import_tensorflow()
    from ftkeras.tasks import classification
    from ftkeras.training.run import Run

    print(classification.export(Run.open(folder), values.out))
    return 0
