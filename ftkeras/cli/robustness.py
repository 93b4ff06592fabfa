"""`ftkeras robustness`."""

from __future__ import annotations

import json

from absl import flags

from ftkeras.cli.flags import define_moved, one_run
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras robustness RUN [--preset=small|full] [--examples=N]
                          [--set data.path=PATH]
Example: ftkeras robustness runs/quickstart --examples=300

It measures only models for images: there are no corruptions of texts.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_moved(values)
    flags.DEFINE_enum(
        "preset", "small", ["small", "full"], "100 images, or all of them", flag_values=values
    )
    flags.DEFINE_integer("examples", None, "how many images, instead", 1, flag_values=values)
    flags.DEFINE_string(
        "split", None, "train, val or test; default: test, or what there is", flag_values=values
    )
    flags.DEFINE_boolean("json", False, "print the result as JSON", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    folder = one_run(positional, "robustness")
    import_tensorflow()
    from ftkeras.evaluation.robustness import PRESETS, format_robustness
    from ftkeras.run import Run
    from ftkeras.runs.finished import robustness

    examples = values.examples or PRESETS[values.preset]
    results = robustness(Run.open(folder, values.set), examples, values.split)
    print(json.dumps(results) if values.json else format_robustness(results))
    return 0
