"""What is kept from run to run, in the user's cache folder. Deleting the folder loses nothing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkeras.errors import UserError
from ftkeras.files import write_arrays, write_whole


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
            keep(self._path, json.dumps(self._facts))
            self._changed = False


def keep(path: Path, content: str | Mapping[str, Any]) -> None:
    """Writes a file of the cache: text, or arrays by name.

    If that fails, a line says so once, and the run continues.
    """
    from tensorflow.errors import OpError  # here: importing it takes seconds

    try:
        if isinstance(content, str):
            write_whole(path, content)
        else:
            write_arrays(path, content)
    except (OSError, OpError) as error:
        _say_once(str(path.parent), getattr(error, "message", None) or str(error))


@functools.cache
def _say_once(folder: str, reason: str) -> None:
    line = f"note      nothing is kept in {folder} ({reason}); it will be made again"
    print(line, file=sys.stderr)


# --------------------------------------------------------------------- what is kept, by folder

_ABOUT = {
    "floor": "linear models that runs start from",
    "forward": "how fast a backbone is here",
    "normalised": "copies of files that are read otherwise",
    "records": "what was found in TFRecord files",
    "scan": "which files can be read",
    "search": "what search has encoded",
    "starter": "the unpacked starter",
}


@dataclass(frozen=True)
class Kept:
    """A file or folder of the cache.

    Args:
        path: The path.
        bytes: Its size on disk.
        used: When it was last used, in seconds since 1970.
        about: A description, for people.
    """

    path: Path
    bytes: int
    used: float
    about: str

    @property
    def key(self) -> str:
        """Its name."""
        return self.path.name

    @property
    def folder(self) -> str:
        """The folder of the cache that it is in."""
        return self.path.parent.name


def list_kept(except_for: str) -> list[Kept]:
    """Returns what the folders of the cache hold, the most recently used first.

    Args:
        except_for: A folder that is left out.
    """
    kept = []
    for folder in cache_folder().iterdir():
        if folder.name == except_for or not folder.is_dir():
            continue
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process removed it meanwhile
                files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
                facts = [file.stat() for file in files]
                used = max((max(f.st_atime, f.st_mtime) for f in facts), default=0.0)
                size = sum(f.st_size for f in facts)
                kept.append(Kept(path, size, used, _ABOUT.get(folder.name, "")))
    return sorted(kept, key=lambda one: one.used, reverse=True)


def prune(
    kept: Sequence[Kept], *, max_bytes: int | None = None, older_than: float | None = None
) -> list[Kept]:
    """Removes what was least recently used, and returns what it removed.

    Args:
        kept: All that is kept.
        max_bytes: Remove until the rest has at most this size.
        older_than: Remove what was not used for this many seconds.
    """
    removed, total = [], 0
    for one in sorted(kept, key=lambda one: one.used, reverse=True):
        old = older_than is not None and time.time() - one.used > older_than
        if old or (max_bytes is not None and total + one.bytes > max_bytes):
            remove(one.path)
            removed.append(one)
        else:
            total += one.bytes
    return removed


def remove(path: Path) -> None:
    """Removes a file or folder in one step; a process that has it open can still read it."""
    going = path.with_name(f".removed-{path.name}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        os.replace(path, going)
    except FileNotFoundError:
        return
    if going.is_dir():
        shutil.rmtree(going, ignore_errors=True)
    else:
        going.unlink(missing_ok=True)
