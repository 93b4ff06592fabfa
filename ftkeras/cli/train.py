"""`ftkeras train`."""

from __future__ import annotations

import functools
import os

from absl import flags

from ftkeras.cli.flags import define_bars, define_config, no_arguments, read_bars, read_config
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras train --config=FILE [--out=FOLDER] [--set FIELD=VALUE ...]
         [--assert METRIC>=VALUE ...] [--seeds=N]
Example: ftkeras train --config=configs/quickstart.yaml --out=runs/q --set phases[1].epochs=20
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_config(values)
    define_bars(values)
    flags.DEFINE_string(
        "out", None, "the run's folder; left out, runs/NAME-OF-CONFIG", flag_values=values
    )
    flags.DEFINE_boolean("overwrite", False, "replace a run that is there", flag_values=values)
    flags.DEFINE_integer(
        "seeds",
        None,
        "repeat with this many seeds, in OUT/seed-N, and report mean and spread",
        2,
        flag_values=values,
    )


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    no_arguments(positional, "train")
    config, bars = read_config(values, "train"), read_bars(values)
    stem = os.path.splitext(os.path.basename(values.config))[0]
    import_tensorflow()
    from ftkeras.evaluation.seeds import format_seeds, repeat
    from ftkeras.tasks import classification

    out = values.out or os.path.join("runs", stem)
    train = functools.partial(classification.train, overwrite=values.overwrite, bars=bars)
    if values.seeds is None:
        train(config, out)
    else:
        summary = repeat(train, config, out, values.seeds, overwrite=values.overwrite)
        print(f"\n{format_seeds(summary)}\n\nrecord  {out}/seeds.json")
    return 0
