"""`ftkeras backbones`."""

from __future__ import annotations

from absl import flags

from ftkeras.backbones.catalog import HEADER, describe
from ftkeras.backbones.image.families import HUB_HEADER, describe_hub
from ftkeras.backbones.text.catalog import TEXT_HEADER, describe_texts
from ftkeras.cli.flags import no_arguments
from ftkeras.console import table

USAGE = """Usage:   ftkeras backbones
Example: ftkeras backbones | sort -k2 -n
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags: none."""


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    no_arguments(positional, "backbones")
    print(table(describe(), HEADER))
    print()
    print(table(describe_hub(), HUB_HEADER))
    print()
    print(table(describe_texts(), TEXT_HEADER))
    return 0
