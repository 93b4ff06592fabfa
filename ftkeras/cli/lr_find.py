"""`ftkeras lr-find`."""

from __future__ import annotations

from absl import flags

from ftkeras.cli.flags import define_config, no_arguments, read_config
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras lr-find --config=FILE [--out=FILE.svg] [--low=1e-6] [--high=1]
Example: ftkeras lr-find --config=configs/quickstart.yaml --out=lr.svg

Suggests a rate if the loss clearly falls and rises again; otherwise it prints what is missing.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_config(values)
    flags.DEFINE_string("out", "lr_find.svg", "the file of the plot", flag_values=values)
    flags.DEFINE_float("low", 1e-6, "the first rate", flag_values=values)
    flags.DEFINE_float("high", 1.0, "the last rate", flag_values=values)
    flags.DEFINE_integer(
        "steps",
        100,
        "steps at most; a suggestion needs 8 for each tenfold rise",
        20,
        flag_values=values,
    )


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    no_arguments(positional, "lr-find")
    config = read_config(values, "lr-find")
    import_tensorflow()
    from ftkeras.runs.assemble import lr_find

    sweep = lr_find(config, values.out, low=values.low, high=values.high, steps=values.steps)
    print(f"plot        {values.out}")
    if sweep.suggestion is None:
        print(f"suggestion  none: {sweep.reason}")
    else:
        tenth = "(a tenth of the rate with the lowest loss)"
        print(f"suggestion  learning_rate: {sweep.suggestion:.1e}  {tenth}")
    return 0
