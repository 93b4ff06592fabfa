"""`ftkeras extend`."""

from __future__ import annotations

from absl import flags

from ftkeras.cli.flags import one_run
from ftkeras.cli.quiet import import_tensorflow
from ftkeras.config.load import load_data_section
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras extend RUN --data=FOLDER --out=NEW [--set FIELD=VALUE ...]
Example: ftkeras extend runs/garments --data=shoes/ --out=runs/more --set incremental.memory=500

The new run has the task incremental: if it was stopped, `ftkeras train --out=NEW` resumes it. Other
settings are those of RUN. Do not move RUN. Its data may be deleted after the extension, because RUN
keeps some of its images (memory.npz). Only runs on images can be extended; train a run on texts
again on all of them.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string(
        "data",
        None,
        "a folder with one folder per class, or a YAML file with a data section",
        flag_values=values,
    )
    flags.DEFINE_string("out", None, "the new run's folder", flag_values=values)
    flags.DEFINE_multi_string(
        "set", [], "override a field, e.g. incremental.memory=500; repeatable", flag_values=values
    )
    flags.DEFINE_boolean("overwrite", False, "replace an existing run", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    folder = one_run(positional, "extend")
    for name in ("data", "out"):
        if values[name].value is None:
            raise UserError(f"extend: --{name} is missing. See `ftkeras extend --help`.")
    is_config = values.data.endswith((".yaml", ".yml"))
    data = {"source": "folder", "path": values.data}
    data = load_data_section(values.data) if is_config else data
    import_tensorflow()
    from ftkeras.run import Run
    from ftkeras.tasks.incremental.extend import extend

    extend(Run.open(folder), data, values.out, values.set, overwrite=values.overwrite)
    return 0
