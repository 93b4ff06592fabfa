"""Imports of other packages without what they would bring along."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Within this block, packages that were not imported before seem not to be installed.

    For what others import only where it is there, and we have no use for.

    Args:
        packages: Their names; afterwards they can be imported as ever.

    Example:
        >>> with hidden("sqlite3"):
        ...     import sqlite3
        Traceback (most recent call last):
        ModuleNotFoundError: import of sqlite3 halted; None in sys.modules
    """
    names = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None: an ImportError
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
