"""A folder with one folder per class, optionally under train/, val/ and test/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from ftkeras.data.dataset import BadFile, Listing
from ftkeras.data.reading import from_files
from ftkeras.data.reasons import names_note
from ftkeras.data.scan import scan_files
from ftkeras.data.walk import files_under, subfolders
from ftkeras.errors import UserError, did_you_mean
from ftkeras.inputs.base import Input
from ftkeras.inputs.registry import KINDS, make_input
from ftkeras.paths import is_utf8, shown

Row = tuple[str, str, str]
"""The part, the class and the path of an example."""
_SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def _other_kind(path: str, kind: Input) -> str:
    """Returns a sentence if a folder holds examples of another kind; otherwise nothing."""
    for other in map(make_input, (name for name in KINDS if name != kind.kind)):
        if any(map(other.accepts, files_under(path))):
            return f" This one holds {other.nouns}: set data.input.kind={other.kind}."
    return ""


def find(*, path: str, parts: Mapping[str, str], kind: Input) -> Listing:
    """Finds the examples of a folder; a class is the name of the folder that one lies in.

    Args:
        path: The folder.
        parts: Subfolders that hold train, val or test, if they have names of their own.
        kind: What the files are.

    Raises:
        UserError: There is no such folder, or it holds no class folders with examples.
    """
    path = path.rstrip("/") or "/"
    if not is_utf8(path):
        raise UserError(f"data.path: {shown(path)} is not UTF-8. Rename the folder.")
    if not tf.io.gfile.isdir(path):
        is_file = tf.io.gfile.exists(path)
        raise UserError(
            f"data.path: {path!r} is {'a file' if is_file else 'not there'}. "
            f"Give a folder that holds one folder of {kind.nouns} for each class."
        )
    if not any(map(kind.accepts, files_under(path))):
        raise UserError(
            f"data.path: there are no {kind.nouns} in {path!r}. "
            f"Give a folder that holds one folder of {kind.files} for each class."
            f"{_other_kind(path, kind)}"
        )
    roots, notes = _part_folders(path, parts)
    train = roots.get("train", roots.get("", path))
    class_names = _class_names(train, kind, notes)
    rows: list[Row] = [
        (part, name, file)
        for part, root in roots.items()
        for name in subfolders(root)
        for file in _files(f"{root}/{name}", kind)
    ]
    inside = _inside(rows, roots)
    verdicts = scan_files([file for _, _, file in rows], path, kind)
    kept = [
        (row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if not verdict.reason
    ]
    return Listing(
        ids=[file[len(path) :].lstrip("/") for (_, _, file), _ in kept],
        labels=[(name,) for (_, name, _), _ in kept],
        parts=[part for (part, _, _), _ in kept],
        make_fetch=from_files([verdict.path for _, verdict in kept]),
        class_names=class_names,
        files=[verdict.path for _, verdict in kept],
        bad_files=tuple(BadFile(v.path, v.reason) for v in verdicts if v.reason),
        hint=_one_level_too_high(path, inside) if list(roots) == [""] else "",
        notes=(
            *notes,
            *_one_level_too_many(inside, kind),
            *names_note([(row[2], v.note) for row, v in kept], kind),
        ),
    )


def _class_names(train: str, kind: Input, notes: list[str]) -> list[str]:
    """Returns the class folders of the training examples, and notes those without examples.

    Raises:
        UserError: There is none.
    """
    class_names = [name for name in subfolders(train) if _files(f"{train}/{name}", kind)]
    if not class_names:
        raise UserError(
            f"data.path: the {kind.nouns} in {train!r} lie in no class folders. "
            f"Make one folder for each class and move its {kind.nouns} there."
        )
    empty = [name for name in subfolders(train) if name not in class_names]
    if empty:
        notes.append(
            f"Folders without {kind.nouns}, which make no class: "
            f"{', '.join([*empty[:5], *(['...'] if empty[5:] else [])])}."
        )
    return class_names


def _inside(rows: Sequence[Row], roots: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the folders in each class folder, of those that hold no example themselves."""
    inside: dict[str, dict[str, None]] = {}
    for part, name, file in rows:
        first, slash, _ = file[len(f"{roots[part]}/{name}/") :].partition("/")
        inside.setdefault(name, {})[first if slash else ""] = None
    return {name: list(folders) for name, folders in inside.items() if "" not in folders}


def _one_level_too_many(inside: Mapping[str, Sequence[str]], kind: Input) -> list[str]:
    """Notes class folders that hold only folders, several of them: these may be the classes."""
    nested = [(name, folders[0]) for name, folders in inside.items() if len(folders) > 1]
    return [
        f"{kind.nouns.capitalize()} lie in subfolders, such as {name}/{first}; they count as "
        f"{name}. If {first} is a class, move all such folders into one folder, and name that "
        "folder in data.path."
        for name, first in nested[:1]
    ]


def _one_level_too_high(path: str, inside: Mapping[str, Sequence[str]]) -> str:
    """Returns what to try if there is only one class."""
    (name, folders), *_ = [*inside.items(), ("", [])]
    if len(folders) < 2:
        return ""
    return f" Did you mean data.path={path}/{name}, which has {len(folders)} folders?"


def _part_folders(path: str, parts: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Finds which subfolder holds which part; {"": path} where the folder has no parts."""
    names_there = subfolders(path)
    roots: dict[str, str] = {}
    for part, spellings in _SPELLINGS.items():
        names = [name for name in names_there if name.lower() in spellings]
        if part in parts:
            names = [parts[part]]
            if parts[part] not in names_there:
                raise UserError(
                    f"data.split.{part}: there is no folder {parts[part]!r} in {path!r}."
                    f"{did_you_mean(parts[part], names_there)}"
                )
        if names:
            roots[part] = f"{path}/{names[0]}"
    # A class may be called "train": a part's folder holds folders, and a class's holds files.
    if "train" not in roots or not subfolders(roots["train"]):
        if parts:
            raise UserError(
                f"data.split: {path!r} has no train folder beside {sorted(parts.values())}. "
                "Name it with data.split.train."
            )
        return {"": path}, []
    unused = [name for name in names_there if f"{path}/{name}" not in roots.values()]
    notes = [f"Folders beside train that are not used: {', '.join(unused)}."] if unused else []
    return roots, notes


def _files(path: str, kind: Input) -> Sequence[str]:
    """All examples under a class folder, at any depth, sorted."""
    return sorted(filter(kind.accepts, files_under(path)))
