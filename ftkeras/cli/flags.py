"""Flags that several verbs share."""

from __future__ import annotations

from absl import flags

from ftkeras.config.load import load_config
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.evaluation.bars import Bar, parse_bars


def define_config(values: flags.FlagValues) -> None:
    """Defines --config and --set."""
    flags.DEFINE_string("config", None, "the YAML config", flag_values=values)
    flags.DEFINE_multi_string(
        "set", [], "override a field, e.g. phases[0].epochs=3; repeatable", flag_values=values
    )


def define_moved(values: flags.FlagValues) -> None:
    """Defines --set of the verbs that read a finished run's data."""
    flags.DEFINE_multi_string(
        "set", [], "data.path=PATH, if the run's data have moved", flag_values=values
    )


def read_config(values: flags.FlagValues, verb: str) -> Config:
    """Returns the config that --config and --set name."""
    if values.config is None:
        raise UserError(f"{verb}: --config is missing. `ftkeras init my.yaml` writes one.")
    return load_config(values.config, values.set)


def define_bars(values: flags.FlagValues) -> None:
    """Defines --assert."""
    flags.DEFINE_multi_string(
        "assert",
        [],
        "fail with status 1 unless it holds: 'accuracy>=0.85'; repeatable",
        flag_values=values,
    )


def read_bars(values: flags.FlagValues) -> list[Bar]:
    """Returns the bars of --assert."""
    return parse_bars(values["assert"].value or [])


def one_run(positional: list[str], verb: str) -> str:
    """Returns the single run folder that a verb was given."""
    if len(positional) != 1:
        raise UserError(f"{verb}: expected one run folder, got {len(positional)} arguments.")
    return positional[0]


def no_arguments(positional: list[str], verb: str) -> None:
    """Refuses arguments that are not flags."""
    if positional:
        first = positional[0]
        guess = f" Did you mean --config={first}?" if first.endswith((".yaml", ".yml")) else ""
        raise UserError(f"{verb}: unexpected argument {first!r}; flags begin with --.{guess}")
