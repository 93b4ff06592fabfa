"""`ftkeras train`."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from absl import flags

from ftkeras.cli.flags import define_bars, define_config, no_arguments, read_bars, read_config
from ftkeras.cli.quiet import import_tensorflow
from ftkeras.errors import UserError
from ftkeras.timeline import recording, stage

if TYPE_CHECKING:
    from ftkeras.config.schema import Config

USAGE = """Usage:   ftkeras train --config=FILE [--out=FOLDER] [--set FIELD=VALUE ...]
         [--assert METRIC>=VALUE ...] [--seeds=N]
Example: ftkeras train --config=configs/quickstart.yaml --out=runs/q --set phases.epochs=20

A run that was stopped or killed resumes: ftkeras train --out=runs/q. If its data have moved, add
--set data.path=PATH; export and report may change, too, and anything if no epoch has ended. Ctrl-C
and SIGTERM save and stop (exit status 130 and 75), SIGUSR1 saves and continues.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_config(values)
    define_bars(values)
    flags.DEFINE_string(
        "out", None, "the run's folder; default: runs/NAME-OF-CONFIG", flag_values=values
    )
    flags.DEFINE_boolean("overwrite", False, "replace an existing run", flag_values=values)
    flags.DEFINE_boolean(
        "profile",
        False,
        "print where the time went, and write OUT/trace.json for ui.perfetto.dev",
        flag_values=values,
    )
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
    if not values.profile:
        _train(values)
        return 0
    if values.seeds is not None:
        raise UserError("train: --profile is for one run. Leave out --seeds.")
    with recording() as timeline:
        out = _train(values)
        trace = timeline.write(os.path.join(out, "trace.json"))
        print(f"\n{timeline.as_table()}\n\ntrace   {trace}, for ui.perfetto.dev")
    return 0


def _train(values: flags.FlagValues) -> str:
    """Trains, and returns the run's folder."""
    bars = read_bars(values)
    config = _config(values)
    stem = os.path.splitext(os.path.basename(values.config or ""))[0]
    import_tensorflow()
    with stage("import ftkeras"):
        from ftkeras.evaluation.seeds import format_seeds, repeat
        from ftkeras.run import Run
        from ftkeras.runs.train import train

    out = values.out or os.path.join("runs", stem)
    if config is None:
        config = Run(out).changed(values.set)
    try:
        if values.seeds is None or config is None:
            train(config, out, overwrite=values.overwrite, bars=bars)
            return out
        train_one = functools.partial(train, overwrite=values.overwrite, bars=bars)
        summary = repeat(train_one, config, out, values.seeds, overwrite=values.overwrite)
    except UserError as error:
        if values.out is None and str(error).startswith(f"--out {out}"):
            raise UserError(f"--out was left out, so it is {out}. {error}") from None
        raise
    print(f"\n{format_seeds(summary)}\n\nrecord  {out}/seeds.json")
    return out


def _config(values: flags.FlagValues) -> Config | None:
    """Returns the config of --config; None if the run in --out resumes with its own."""
    if values.config is None and values.out is not None and values.seeds is None:
        return None
    return read_config(values, "train")
