"""`ftkeras cache`."""

from __future__ import annotations

import time

from absl import flags

from ftkeras.cli.flags import no_arguments
from ftkeras.cli.quiet import import_tensorflow
from ftkeras.console import duration, table

USAGE = """Usage:   ftkeras cache [--max_mb=N] [--older_than_days=N]
Example: ftkeras cache --max_mb=2000 --older_than_days=30
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_integer(
        "max_mb", None, "remove the least recently used until the rest fits", 0,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "older_than_days", None, "remove trunks unused for so many days", 0.0, flag_values=values
    )


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    no_arguments(positional, "cache")
    import_tensorflow()
    from ftkeras.trunk.store import list_stores, prune, stores_folder

    removed = prune(
        max_bytes=None if values.max_mb is None else values.max_mb * 1_000_000,
        older_than=None if values.older_than_days is None else values.older_than_days * 86_400,
    )
    rows = [
        (
            store.key[:8],
            f"{store.bytes / 1e6:.1f} MB",
            f"{duration(time.time() - store.used)} ago",
            store.about,
        )
        for store in list_stores()
    ]
    print(f"stored trunks in {stores_folder()}: {len(rows)}")
    if rows:
        print(table(rows, ("key", "size", "last used", "of")))
    if removed:
        freed = sum(store.bytes for store in removed)
        print(f"removed {len(removed)}, {freed / 1e6:.1f} MB")
    return 0
