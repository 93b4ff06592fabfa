"""`ftkeras export`."""

from __future__ import annotations

import sys

from absl import flags

from ftkeras.cli.flags import define_bars, define_moved, one_run, read_bars
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras export RUN [--out=FOLDER] [--format=NAME ...]
         [--assert METRIC>=VALUE ...]
Example: ftkeras export runs/quickstart --out=/models/garments --assert 'accuracy>=0.85'
         ftkeras export runs/quickstart --format=litert --format=onnx
"""

_FORMATS = ("saved_model", "litert", "onnx", "openvino")


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_bars(values)
    define_moved(values)
    flags.DEFINE_string("out", None, "the folder; default: RUN/export", flag_values=values)
    flags.DEFINE_multi_enum(
        "format",
        None,
        _FORMATS,
        f"a format: {', '.join(_FORMATS)}; repeatable; default: those of the config",
        flag_values=values,
    )


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    folder, bars = one_run(positional, "export"), read_bars(values)
    import_tensorflow()
    from ftkeras.evaluation.bars import require
    from ftkeras.export.run import what_was_checked
    from ftkeras.run import Run
    from ftkeras.runs.finished import export

    run = Run.open(folder, values.set)
    if bars:  # a model below a bar is not exported
        require(bars, run.read_json("evaluation.json"))
    formats = values.format or ["saved_model", *run.config.export.formats]
    for name, path in export(run, values.out, formats).items():
        print(path)
        for line in what_was_checked(run.read_json("certificate.json")[name]):
            print(line, file=sys.stderr)
    return 0
