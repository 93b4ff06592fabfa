"""What is kept from run to run, in the user's cache folder. Deleting the folder loses nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ftkeras.files import write_whole


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
            write_whole(self._path, json.dumps(self._facts))
            self._changed = False
