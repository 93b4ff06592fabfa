"""`ftkeras cache`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from ftkeras.cli.flags import no_arguments
from ftkeras.cli.quiet import import_tensorflow
from ftkeras.console import duration, table

if TYPE_CHECKING:
    from ftkeras.cache import Kept

USAGE = """Usage:   ftkeras cache [--max_mb=N] [--older_than_days=N]
Example: ftkeras cache --max_mb=2000 --older_than_days=30

Lists stored trunks, and what else is kept from run to run: floors, search indices and so on. All of
it is made again if it is needed.
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_integer(
        "max_mb", None, "remove the least recently used until the rest fits", 0,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "older_than_days", None, "remove what was unused for so many days", 0.0, flag_values=values
    )


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    no_arguments(positional, "cache")
    import_tensorflow()
    from ftkeras.cache import cache_folder, list_kept, prune
    from ftkeras.trunk.store import list_stores, stores_folder

    trunks = stores_folder().name
    removed = prune(
        [*list_stores(), *list_kept(except_for=trunks)],
        max_bytes=None if values.max_mb is None else values.max_mb * 1_000_000,
        older_than=None if values.older_than_days is None else values.older_than_days * 86_400,
    )
    stores = list_stores()
    rows = [(store.key[:8], _size([store]), _last_used([store]), store.about) for store in stores]
    print(f"stored trunks in {stores_folder()}: {len(rows)}")
    if rows:
        print(table(rows, ("key", "size", "last used", "of")))
    by_folder: dict[str, list[Kept]] = {}
    for one in list_kept(except_for=trunks):
        by_folder.setdefault(one.folder, []).append(one)
    if by_folder:
        print(f"\nalso in {cache_folder()}:")
        facts = [
            (name, str(len(kept)), _size(kept), _last_used(kept), kept[0].about)
            for name, kept in sorted(by_folder.items())
        ]
        print(table(facts, ("folder", "entries", "size", "last used", "of")))
    if removed:
        print(f"removed {len(removed)}, {_size(removed)}")
    return 0


def _size(kept: Sequence[Kept]) -> str:
    return f"{sum(one.bytes for one in kept) / 1e6:.1f} MB"


def _last_used(kept: Sequence[Kept]) -> str:
    return f"{duration(time.time() - max(one.used for one in kept))} ago"
