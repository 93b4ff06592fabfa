"""`ftkeras plan`."""

from __future__ import annotations

from absl import flags

from ftkeras.cli.flags import define_config, no_arguments, read_config
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras plan --config=FILE [--set FIELD=VALUE ...]
Example: ftkeras plan --config=configs/two_phases.yaml --set "phases[1].train=[head, blocks[-2:]]"
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_config(values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    no_arguments(positional, "plan")
    config = read_config(values, "plan")
    import_tensorflow()
    from ftkeras.phases import format_plan
    from ftkeras.phases.strategies import phases_as_yaml
    from ftkeras.runs.assemble import assemble
    from ftkeras.trunk.plan import format_trunk

    assembled = assemble(config)
    print(assembled.describe())
    if not assembled.task.trains(config):
        print(f"\nno phase runs: task {config.task} makes this model without phases")
        return 0
    print()
    print(format_plan(assembled.plan), end="")
    if assembled.trunk is not None:
        print("\n" + format_trunk(assembled.trunk))
    if not isinstance(config.phases, list):
        print("\nThe strategy's phases, to copy into a config and edit:\n")
        print(phases_as_yaml(assembled.phases), end="")
    return 0
