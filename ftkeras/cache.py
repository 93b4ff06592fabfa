"""What is kept from run to run, in the user's cache folder. Deleting the folder loses nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cache_folder(*parts: str) -> Path:
    """Returns (and makes) a folder under FTKERAS_CACHE, or else ~/.cache/ftkeras."""
    root = os.environ.get("FTKERAS_CACHE") or Path.home() / ".cache" / "ftkeras"
    folder = Path(root).joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(*parts: object) -> str:
    """Returns a short name that follows from `parts`: the same today and on any machine."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path that becomes `path` when the block ends well, else is removed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Remembered:
    """Facts about files, each valid as long as its stamp (size and time) stays the same.

    Args:
        kind: What the facts are; with `about` it names the JSON file that holds them.
        about: What they are about, for example a folder.
    """

    def __init__(self, kind: str, *about: object):
        self._path = cache_folder(kind) / f"{digest(*about)}.json"
        self._changed = False
        self._facts: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError):  # a lost or broken cache is an empty one
            facts = json.loads(self._path.read_text(encoding="utf-8"))
            if isinstance(facts, dict):
                self._facts = facts

    def get(self, key: str, stamp: str) -> Any:
        """Returns what was put under this key and stamp, or None."""
        entry = self._facts.get(key)
        return entry[1] if isinstance(entry, list) and entry[:1] == [stamp] else None

    def put(self, key: str, stamp: str, fact: Any) -> None:
        """Remembers a JSON value."""
        self._facts[key] = [stamp, fact]
        self._changed = True

    def save(self) -> None:
        """Writes the facts down, if there is anything new."""
        if self._changed:
            with atomic_file(self._path) as temporary:
                temporary.write_text(json.dumps(self._facts), encoding="utf-8")
            self._changed = False
