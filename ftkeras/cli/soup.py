"""`ftkeras soup`."""

from __future__ import annotations

from absl import flags

from ftkeras.cli.quiet import import_tensorflow
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras soup RUN RUN... --out=FOLDER [--method=greedy|uniform]
Example: ftkeras soup runs/a/seed-0 runs/a/seed-1 runs/a/seed-2 --out=runs/soup

Averages the weights of finished runs into a run of its own, which is measured and exported. Data
and settings are those of the first run. The runs must not have trained on its validation and test
images: give all of them one data.split_seed.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string("out", None, "the soup's folder", flag_values=values)
    flags.DEFINE_enum(
        "method",
        "greedy",
        ["greedy", "uniform"],
        "keep a run if the soup gets no worse with it, or keep all",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "select",
        "mean",
        ["mean", "clean"],
        "the validation accuracy that decides: the mean of clean and corrupted, or clean alone",
        flag_values=values,
    )
    flags.DEFINE_boolean("overwrite", False, "replace an existing run", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if len(positional) < 2:
        raise UserError(f"soup: expected two run folders or more, got {len(positional)}.")
    if values.out is None:
        raise UserError("soup: --out is missing: the folder of the new run.")
    import_tensorflow()
    from ftkeras.run import Run
    from ftkeras.runs.train import train
    from ftkeras.tasks.robust_weights.task import soup_config

    first = Run.open(positional[0]).config
    config = soup_config(first, positional, f"{values.method}_soup", values.select)
    train(config, values.out, overwrite=values.overwrite)
    return 0
