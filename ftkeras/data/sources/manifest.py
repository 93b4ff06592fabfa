"""A CSV or JSON Lines file that lists examples and labels."""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from ftkeras.data.answers import separator_in
from ftkeras.data.dataset import BadFile, Listing
from ftkeras.data.reading import from_array, from_files
from ftkeras.data.reasons import names_note
from ftkeras.data.scan import scan_files
from ftkeras.data.sources.manifest_rows import AGAIN, Columns, Row, read_rows
from ftkeras.errors import UserError
from ftkeras.inputs.base import Input, Verdict
from ftkeras.paths import why_not_readable


def find(*, path: str, parts: Mapping[str, str], kind: Input, **settings: Any) -> Listing:
    """Finds the examples that a manifest lists.

    Lines of one file become one example. Columns that have no meaning here are kept: evaluation
    measures the model by their values.

    Args:
        path: A .csv, .tsv or .jsonl file; paths in it are relative to its own folder.
        parts: What the split column says for train, val or test, if it is something else.
        kind: What the files are.
        **settings: See `Columns`.

    Raises:
        UserError: With the file and line of what is wrong.
    """
    columns = Columns(**settings, cells=kind.cells)
    folder = path.rpartition("/")[0]
    listed = read_rows(path, parts, columns)
    if not listed:
        raise UserError(
            f"{path}: the manifest lists no {kind.nouns}. Add a line for each {kind.noun}."
        )
    rows = listed if columns.cells else _merged(listed, folder, columns)
    sound = [row for row in rows if not row.fault]
    if columns.cells:
        verdicts = [_judge(row, kind) for row in sound]
    else:
        verdicts = scan_files([_absolute(row.file, folder) for row in sound], path, kind)
    judged = list(zip(sound, verdicts, strict=True))
    kept = [(row, v) for row, v in judged if not v.reason]
    weights = np.array([row.weight for row, _ in kept], np.float32)
    weighs = not (weights == 1.0).all()
    # A class of which all files are bad must not vanish unnoticed.
    class_names = columns.label_columns or sorted({name for row in listed for name in row.labels})
    notes = [
        *names_note([(row.file, v.note) for row, v in kept], kind),
        *_merging_note(len(listed), len(rows), kind),
        *_separator_note(class_names, columns),
        *([_weight_note(weights, columns, kind)] if weighs else []),
    ]
    bad = [BadFile(row.file, v.reason, row.where) for row, v in judged if v.reason]
    return Listing(
        ids=[row.file for row, _ in kept],
        labels=[row.labels for row, _ in kept],
        parts=[row.part for row, _ in kept],
        make_fetch=(
            from_array(np.array([kind.in_cells(row.cells) for row, _ in kept], object))
            if columns.cells
            else from_files([v.path for _, v in kept])
        ),
        class_names=list(class_names),
        weights=weights if weighs else None,
        label_kind="classes" if columns.is_one_label else "labels",
        columns=_columns([row for row, _ in kept], {name for row in rows for name in row.more}),
        files=None if columns.cells else [v.path for _, v in kept],
        bad_files=(*bad, *(BadFile(row.file, row.fault, row.where) for row in rows if row.fault)),
        notes=tuple(notes),
    )


# ------------------------------------------------------------ examples that stand in the lines


def _judge(row: Row, kind: Input) -> Verdict:
    """Returns whether the example of a line can be used."""
    return kind.check(kind.in_cells(row.cells), row.file, "")


# ------------------------------------------------------------------------- lines of one file


def _merged(rows: Sequence[Row], folder: str, columns: Columns) -> list[Row]:
    """Returns one row per file: two examples of one image would lie in train and in test."""
    by_file: dict[str, list[Row]] = {}
    for row in rows:
        row = dataclasses.replace(row, file=_as_found(row.file, folder))
        by_file.setdefault(_key(_absolute(row.file, folder)), []).append(row)
    return [same[0] if len(same) == 1 else _merge(same, columns) for same in by_file.values()]


def _merge(rows: Sequence[Row], columns: Columns) -> Row:
    """Returns a row with what all rows of a file say.

    Raises:
        UserError: They are in different parts.
    """
    first = rows[0]
    parts = {row.part: row.where for row in rows if row.part}
    if len(parts) > 1:
        (one, here), (other, there), *_ = parts.items()
        raise UserError(
            f"{there}: {first.file} is in {other}, and in {one} at {here}. Leave one of the lines."
        )
    labels = tuple(dict.fromkeys(label for row in rows for label in row.labels))
    names = dict.fromkeys(name for row in rows for name in row.more)
    values = {
        name: list(dict.fromkeys(row.more[name] for row in rows if row.more.get(name)))
        for name in names
    }
    fault = ""
    if columns.is_one_label and len(labels) > 1:
        fault = "several lines give it different labels: set data.multi_label=true if it has all"
    differing = [n for n, texts in values.items() if len(texts) > 1 and n not in columns.several]
    if columns.label_column is None and differing:  # then a column may be an answer
        fault = f"several lines give it different values of {differing[0]!r}: make them one line"
    return dataclasses.replace(
        first,
        where=f"{first.where} and more",
        labels=labels,
        part=next(iter(parts), ""),
        weight=max(row.weight for row in rows),
        more={n: (AGAIN if n in columns.several else ";").join(t) for n, t in values.items()},
        fault=fault,
    )


def _key(file: str) -> str:
    """Returns what two spellings of a path share."""
    flat = posixpath.normpath(file)
    # After a link, ".." leads elsewhere.
    same = ".." not in file or os.path.realpath(flat) == os.path.realpath(file)
    return flat if same else file


def _as_found(file: str, folder: str) -> str:
    """Returns a path without spaces around it, and with slashes if Windows wrote it."""
    usual = file.strip().replace("\\", "/")
    # A name may hold such characters here; then there is such a file.
    return file if file == usual or not why_not_readable(_absolute(file, folder)) else usual


def _absolute(file: str, folder: str) -> str:
    is_absolute = file.startswith("/") or "://" in file or not folder
    return file if is_absolute else f"{folder}/{file}"


def _columns(rows: Sequence[Row], names: Set[str]) -> dict[str, np.ndarray]:
    """Returns what the columns without a meaning here say, by name."""
    return {
        name: np.array([row.more.get(name, "") for row in rows], object) for name in sorted(names)
    }


# ------------------------------------------------------------------------- notes


def _merging_note(lines: int, rows: int, kind: Input) -> list[str]:
    if lines == rows:
        return []
    return [f"{lines} lines of the manifest list {rows} {kind.nouns}: lines of one path are one."]


def _weight_note(weights: np.ndarray, columns: Columns, kind: Input) -> str:
    return (
        f"The column {columns.weight_column!r} weighs each {kind.noun} in the loss, from "
        f"{weights.min():g} to {weights.max():g}. If it means something else, set "
        "data.weight_column=null."
    )


def _separator_note(labels: Sequence[str], columns: Columns) -> list[str]:
    """Notes that labels look like several in one."""
    separator = separator_in(labels)
    if columns.label_columns or not separator:
        return []
    several = "" if columns.multi_label else "data.multi_label=true and "
    return [
        f"Labels hold {separator!r}, as {next(label for label in labels if separator in label)!r} "
        "does, and each counts as one class. If it separates several labels (multi_label), set "
        f"{several}data.label_separator={separator!r}."
    ]
