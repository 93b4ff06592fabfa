"""A CSV or JSON Lines file that lists examples and labels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftkeras.data.dataset import BadFile, Listing
from ftkeras.data.reading import from_files, read_whole
from ftkeras.data.scan import scan_files
from ftkeras.errors import UserError, did_you_mean
from ftkeras.inputs.base import Input
from ftkeras.paths import is_utf8

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


# Of the file, the label, the part and the weight.
_Columns = tuple[str, str | None, str, str]


@dataclass(frozen=True)
class _Row:
    where: str  # file:line
    file: str
    labels: tuple[str, ...]
    part: str
    weight: float
    more: dict[str, str]  # what the other columns say


def find(
    *,
    path: str,
    parts: Mapping[str, str],
    kind: Input,
    image_column: str = "path",
    label_column: str | None = "label",
    split_column: str = "split",
    weight_column: str = "weight",
    multi_label: bool = False,
) -> Listing:
    """Finds the examples that a manifest lists.

    Columns that have no meaning here are kept: evaluation measures the model by their values.

    Args:
        path: A .csv or .jsonl file; paths in it are relative to its own folder.
        parts: What the split column says for train, val or test, where it is something else.
        kind: What the files are.
        image_column: The column of a file's path.
        label_column: The column of the label; with `multi_label` of several: a list in JSON,
            "a;b" in CSV. None: the examples have no label.
        split_column: The column of the part; where it is missing or empty, that is left open.
        weight_column: The column of the example's weight in the loss; it may be missing.
        multi_label: Whether an example may have any number of labels.

    Raises:
        UserError: With the file and line of what is wrong.
    """
    columns = (image_column, label_column, split_column, weight_column)
    rows = _rows(path, parts, columns, multi_label)
    if not rows:
        raise UserError(
            f"{path}: the manifest lists no {kind.nouns}. Add a line for each {kind.noun}."
        )
    folder = path.rpartition("/")[0]
    verdicts = scan_files([_absolute(row.file, folder) for row in rows], path, kind)
    judged = list(zip(rows, verdicts, strict=True))
    kept = [(row, v) for row, v in judged if not v.reason]
    weights = np.array([row.weight for row, _ in kept], np.float32)
    return Listing(
        ids=[row.file for row, _ in kept],
        labels=[row.labels for row, _ in kept],
        parts=[row.part for row, _ in kept],
        make_fetch=from_files([v.path for _, v in kept]),
        # A class of which all files are bad must not vanish unnoticed.
        class_names=sorted({label for row in rows for label in row.labels}),
        weights=None if (weights == 1.0).all() else weights,
        label_kind="labels" if multi_label or label_column is None else "classes",
        columns=_columns([row for row, _ in kept], {name for row in rows for name in row.more}),
        files=[v.path for _, v in kept],
        bad_files=tuple(
            BadFile(row.file, f"{v.reason} ({row.where})") for row, v in judged if v.reason
        ),
    )


def _rows(path: str, parts: Mapping[str, str], columns: _Columns, multi_label: bool) -> list[_Row]:
    """Returns the lines; see `find`."""
    spelled = {**_PARTS, **{name: part for part, name in parts.items()}}
    rows = [
        _parse(where, record, columns, spelled, multi_label) for where, record in _records(path)
    ]
    for part, name in parts.items():
        if rows and not any(row.part == part for row in rows):
            raise UserError(f"data.split.{part}: no line of {path} has the split {name!r}.")
    return rows


def _columns(rows: Sequence[_Row], names: Set[str]) -> dict[str, np.ndarray]:
    """Returns what the columns without a meaning here say, by name."""
    return {
        name: np.array([row.more.get(name, "") for row in rows], object) for name in sorted(names)
    }


def _records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", record) for each line of the manifest."""
    try:
        text = read_whole(path).getvalue().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}). Save it as UTF-8.") from error
    if path.lower().endswith((".jsonl", ".ndjson")):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", _json_object(line, f"{path}:{number}")
    elif path.lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for record in reader:
                if None in record or None in record.values():
                    raise UserError(
                        f"{path}:{reader.line_num}: the line has not as many fields as the header "
                        f"({len(reader.fieldnames or ())}). Quote fields that hold commas."
                    )
                yield f"{path}:{reader.line_num}", dict(record)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.reader.line_num}: not CSV: {error}.") from error
    else:
        raise UserError(f"data.path: {path!r} must end in .csv or .jsonl.")


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: each line must be a JSON object, not {line.strip()[:40]}.")
    return record


def _parse(
    where: str,
    record: Mapping[str, Any],
    columns: _Columns,
    spelled: Mapping[str, str],
    multi_label: bool,
) -> _Row:
    path_column, label_column, split_column, weight_column = columns
    for column, field in ((path_column, "image_column"), (label_column, "label_column")):
        if column is not None and column not in record:
            raise UserError(
                f"{where}: there is no column {column!r}.{did_you_mean(column, record)} "
                f"Its columns are {', '.join(record)}; data.{field} names another."
            )
    file = record[path_column]
    if not isinstance(file, str) or not file:
        raise UserError(f"{where}: {path_column} must be the path of a file, not {file!r}.")
    labels: tuple[str, ...] = ()
    if label_column is not None:
        labels = _labels(record[label_column], label_column, where, multi_label)
    if not all(map(is_utf8, (file, *labels))):
        raise UserError(f"{where}: half a surrogate pair is not text.")
    part = record.get(split_column) or ""
    if part and spelled.get(str(part)) is None:
        raise UserError(
            f"{where}: {split_column} is {part!r}; it must be train, val or test, or empty."
            f"{did_you_mean(str(part), spelled)}"
        )
    return _Row(
        where=where,
        file=file,
        labels=labels,
        part=spelled[str(part)] if part else "",
        weight=_weight(record.get(weight_column), weight_column, where),
        more={
            name: _text(value)
            for name, value in record.items()
            if name not in columns and not isinstance(value, dict)
        },
    )


def _labels(value: Any, column: str, where: str, multi_label: bool) -> tuple[str, ...]:
    if multi_label:
        values = value.split(";") if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(v, (str, int)) for v in values):
            return tuple(dict.fromkeys(str(v).strip() for v in values if str(v).strip()))
        raise UserError(f"{where}: {column} must be a list of labels, not {value!r}.")
    if isinstance(value, (str, int)) and str(value).strip():
        return (str(value).strip(),)
    hint = " Set data.multi_label=true." if isinstance(value, list) else ""
    raise UserError(f"{where}: {column} must be one label, not {value!r}.{hint}")


def _text(value: Any) -> str:
    """A cell as CSV would have it; the semicolon alone tells that a list is known to be empty."""
    if isinstance(value, list):
        return ";".join(map(str, value)) or ";"
    return "" if value is None else str(value)


def _weight(value: Any, column: str, where: str) -> float:
    if value is None or value == "":
        return 1.0
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight <= 1e30:
        raise UserError(f"{where}: {column} must be a number of 0 or more, not {value!r}.")
    return weight


def _absolute(file: str, folder: str) -> str:
    is_absolute = file.startswith("/") or "://" in file or not folder
    return file if is_absolute else f"{folder}/{file}"
