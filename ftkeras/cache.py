"""What is kept from run to run, in the user's cache folder. Deleting the folder loses nothing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ftkeras.errors import UserError
from ftkeras.files import write_whole


def cache_folder(*parts: str) -> Path:
    """Returns (and makes) a folder under FTKERAS_CACHE, otherwise ~/.cache/ftkeras.

    If the home cannot be written, a folder of this user's own under the temporary folder serves.

    Raises:
        UserError: FTKERAS_CACHE names what cannot be a folder.
    """
    named = os.environ.get("FTKERAS_CACHE")
    root = Path(named).expanduser() if named else _default_root(os.path.expanduser("~"))
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"FTKERAS_CACHE: {folder} cannot be made ({error.strerror}). Name a folder that can be "
            "written."
        ) from None
    return folder


@functools.cache
def _default_root(home: str) -> Path:
    with contextlib.suppress(OSError):
        root = Path(home) / ".cache" / "ftkeras"
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    root = Path(tempfile.gettempdir()) / f"ftkeras-{os.getuid() if hasattr(os, 'getuid') else 0}"
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    if root.is_symlink() or (hasattr(os, "getuid") and root.stat().st_uid != os.getuid()):
        root = Path(tempfile.mkdtemp(prefix="ftkeras-"))  # another user made that one
    print(
        f"ftkeras: the home folder cannot be written, so what is kept lies in {root}. "
        "FTKERAS_CACHE names another folder.",
        file=sys.stderr,
    )
    return root


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
