"""`ftkeras doctor`."""

from __future__ import annotations

import json

from absl import flags

from ftkeras.cli.flags import define_config, no_arguments, read_config
from ftkeras.cli.quiet import import_tensorflow

USAGE = """Usage:   ftkeras doctor [--config=FILE] [--set FIELD=VALUE ...] [--out=FILE] [--json]
         ftkeras doctor --replicas
Example: ftkeras doctor --config=configs/quickstart.yaml --out=findings.csv

With --replicas it trains a small network on 1, 2 and 4 replicas of this machine's CPU and in 2
processes, and compares the numbers with those of one device.

Exit status: 0 no errors were found, 1 errors were found, 2 wrong input.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    define_config(values)
    flags.DEFINE_string("out", None, "a .csv or .json file for all evidence", flag_values=values)
    flags.DEFINE_boolean("replicas", False, "compare replicas and workers", flag_values=values)
    flags.DEFINE_boolean("json", False, "print JSON instead of text", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if positional and values.config is None:  # `ftkeras doctor my.yaml`
        values["config"].value = positional.pop(0)
    no_arguments(positional, "doctor")
    if values.replicas:
        return _compare_replicas()
    config = read_config(values, "doctor") if values.config or values.set else None
    import_tensorflow()
    from ftkeras.doctor import examine
    from ftkeras.findings import check_out

    if values.out is not None:
        check_out(values.out)
    diagnosis = examine(config)
    print(json.dumps(diagnosis.as_json(), indent=1) if values.json else diagnosis.text())
    if values.out is not None:
        diagnosis.write(values.out)
    return diagnosis.exit_status


def _compare_replicas() -> int:
    import_tensorflow()
    from ftkeras.doctor.parity import TOLERANCE, compare_replicas, format_rows

    rows = compare_replicas()
    print(format_rows(rows))
    return int(not all(row.worst <= TOLERANCE for row in rows))
