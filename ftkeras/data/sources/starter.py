"""The data that ftkeras ships: a folder of files, or a table."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ftkeras.cache import cache_folder
from ftkeras.data.dataset import Listing
from ftkeras.data.sources import folder, manifest
from ftkeras.errors import UserError
from ftkeras.inputs.base import Input
from ftkeras.starter import archive_path


def find(*, parts: Mapping[str, str], kind: Input) -> Listing:
    """Finds the starter's examples, unpacking them on first use."""
    if not kind.starter:
        raise UserError(f"data.source: the starter has no {kind.nouns}. Name another source.")
    unpacked = unpack(archive_path(kind.starter))
    if not kind.cells:
        return folder.find(path=str(unpacked), parts=parts, kind=kind)
    [table] = unpacked.glob("*.csv")
    return manifest.find(path=str(table), parts=parts, kind=kind)


def unpack(archive: Path) -> Path:
    """Unpacks a zip file into the user's cache folder, once for each content.

    A folder under its final name is always whole: it is unpacked under another name first.

    Returns:
        The folder.

    Raises:
        UserError: A member would be written outside that folder, or is not a plain file.
    """
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    target = cache_folder("starter") / checksum
    if target.is_dir():
        return target
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpacking-"))
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                _check_member(member, archive)
            packed.extractall(temporary)
        try:
            os.replace(temporary, target)
        except OSError:
            if not target.is_dir():  # otherwise another process was as fast
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    plain = not stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in member.filename or not plain:
        raise UserError(
            f"{archive}: the member {member.filename!r} would be written outside its folder. "
            "Do not use this archive; install ftkeras again."
        )
