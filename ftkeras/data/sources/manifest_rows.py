"""The lines of a manifest, CSV or JSON Lines, and what each says of one example."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ftkeras.data.reading import read_whole
from ftkeras.errors import UserError, did_you_mean
from ftkeras.files import OTHER_ENCODINGS
from ftkeras.paths import is_utf8

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_OF_TEXTS = (
    " If a column holds texts, set data.input={kind: text, column: NAME}; the backbone must read "
    "texts, as gru does and Transformers of keras_hub/ and hf:// do."
)
AGAIN = "\x1e"
"""Stands between the values of a column in `Columns.several`."""
_MOST_OF_A_FIELD = 1 << 26  # characters; a text may be long
_MOST_OF_A_LINE = 1 << 27  # bytes
_MOST_COLUMNS = 10_000
_NAMED, _SHOWN = 20, 40  # columns in a message, and characters of each
_DELIMITERS = (",", ";", "\t", "|")
_YES = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}


def is_table(path: str) -> bool:
    """Whether a file's name says that it is a table."""
    return path.lower().endswith((".csv", ".tsv", ".jsonl", ".ndjson"))


@dataclass(frozen=True)
class Columns:
    """Which column says what, and how.

    Args:
        image_column: The column of a file's path.
        cells: Instead of it, the columns that hold the example itself.
        label_column: The column of the label; with `multi_label` of several: a list in JSON,
            "a;b" in CSV. None: the examples have no label.
        label_columns: One column per label instead, with 1 for those that an example has.
        label_separator: What stands between the labels of a cell.
        split_column: The column of the part; if it is missing or empty, that is left open.
        weight_column: The column of the example's weight in the loss; it may be missing. None:
            all weigh the same.
        multi_label: Whether an example may have any number of labels.
        several: Columns with any number of values for each file: a list in JSON, or one on each of
            its lines. `AGAIN` stands between them.

    Raises:
        UserError: The settings contradict one another.
    """

    image_column: str = "path"
    label_column: str | None = "label"
    label_columns: Sequence[str] | None = None
    label_separator: str = ";"
    split_column: str = "split"
    weight_column: str | None = "weight"
    multi_label: bool = False
    cells: Sequence[str] = ()
    several: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.label_columns and self.label_column != "label":
            raise UserError(
                "data: label_column and label_columns exclude each other. Leave out one."
            )
        if self.label_separator != ";" and not self.multi_label:
            raise UserError("data.label_separator: it needs data.multi_label=true.")

    @property
    def needed(self) -> dict[str, str]:
        """The columns that every line must have, and the field that names each."""
        if self.label_columns:
            labels = dict.fromkeys(self.label_columns, "label_columns")
        else:
            labels = {} if self.label_column is None else {self.label_column: "label_column"}
        files = {self.image_column: "image_column"}
        return {**(dict.fromkeys(self.cells, "input.column") or files), **labels}

    @property
    def is_one_label(self) -> bool:
        """Whether an example has exactly one label."""
        has_labels = self.label_column is not None or self.label_columns
        return bool(has_labels) and not self.multi_label

    @property
    def optional(self) -> dict[str, str]:
        """The columns that may be missing, and the field that names each."""
        weight = {} if self.weight_column is None else {self.weight_column: "weight_column"}
        return {self.split_column: "split_column", **weight}


@dataclass(frozen=True)
class Row:
    """What a line says, or all lines of one file."""

    where: str  # file:line
    file: str
    labels: tuple[str, ...]
    part: str
    weight: float
    more: dict[str, str]  # what the other columns say
    fault: str = ""  # why it cannot be used
    cells: tuple[str, ...] = ()  # the example itself, if it is no file


def read_rows(path: str, parts: Mapping[str, str], columns: Columns) -> list[Row]:
    """Reads a manifest.

    Args:
        path: A .csv, .tsv or .jsonl file.
        parts: What the split column says for train, val or test, if it is something else.
        columns: What the columns mean.

    Raises:
        UserError: With the file and line of what is wrong.
    """
    spelled = _spellings(parts)
    rows: list[Row] = []
    there: dict[str, None] = {}
    for where, record in _records(path, columns):
        rows.append(_parse(where, record, columns, spelled))
        there.update(dict.fromkeys(record))
    for part, name in parts.items():
        if rows and not any(row.part == part for row in rows):
            raise UserError(f"data.split.{part}: no line of {path} has the split {name!r}.")
    for column, field in columns.optional.items():
        if rows and column not in there and column != getattr(Columns, field):
            raise UserError(
                f"data.{field}: {path} has no column {column!r}.{did_you_mean(column, there)}"
            )
    return rows


def read_cells(path: str, cells: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Returns ("file:line", the cells of some columns) of each line of a table without labels.

    Raises:
        UserError: With the file and line of what is wrong.
    """
    columns = Columns(label_column=None, weight_column=None, cells=cells)
    rows = []
    for where, record in _records(path, columns):
        missing = [name for name in cells if name not in record]
        if missing:
            raise UserError(_no_column(where, missing[0], record))
        rows.append((where, tuple(_cell(record[name]) for name in cells)))
    return rows


def _spellings(parts: Mapping[str, str]) -> dict[str, str]:
    """Returns the part by what the split column may say: in small letters, or a name of its own."""
    own = {name.strip(): part for part, name in parts.items()}
    return {**_PARTS, "": "", **{name.lower(): part for name, part in own.items()}, **own}


def _records(path: str, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", record) for each line of the manifest."""
    content = read_whole(path).getvalue()
    _check_bytes(content, path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}). Save it as UTF-8.") from error
    del content
    if path.lower().endswith((".jsonl", ".ndjson")):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", _json_object(line, f"{path}:{number}")
    elif is_table(path):
        yield from _table(path, text, columns)
    else:
        raise UserError(f"data.path: {path!r} must end in .csv, .tsv or .jsonl.")


def _check_bytes(content: bytes, path: str) -> None:
    """Refuses another encoding, and lines of which one alone would fill the memory."""
    for mark, name in OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise UserError(f"{path}: {name}, not UTF-8 text. Save it as UTF-8.")
    if b"\0" in content[: content.find(b"\n") + 1 or _MOST_OF_A_LINE]:
        raise UserError(f"{path}:1: not UTF-8 text: it has zero bytes. Save it as UTF-8.")
    start, number = 0, 1
    while len(content) - start > _MOST_OF_A_LINE:  # otherwise no line is longer
        end = content.find(b"\n", start, start + _MOST_OF_A_LINE)
        if end < 0:
            raise UserError(
                f"{path}:{number}: the line is longer than {_MOST_OF_A_LINE >> 20} MiB. A manifest "
                "has a line for each example."
            )
        start, number = end + 1, number + 1


def _table(path: str, text: str, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", record) for each line of CSV, whatever delimits its fields."""
    lines = io.StringIO(text, newline="")
    first = lines.readline().rstrip("\r\n")
    before = 1 if first.lower().startswith("sep=") and len(first) == 5 else 0  # Excel's mark
    delimiter = first[4] if before else _delimiter(first, columns)
    lines.seek(0)
    csv.field_size_limit(max(csv.field_size_limit(), _MOST_OF_A_FIELD))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for _ in range(before):
            next(reader)
        header = [name.strip() for name in next(reader, [])]
        if len(header) > _MOST_COLUMNS:
            raise UserError(
                f"{path}:{reader.line_num}: {len(header):,} columns; at most {_MOST_COLUMNS:,} are "
                "read. Leave out those that say nothing of an example."
            )
        _check_once(header, f"{path}:{reader.line_num}")
        for fields in filter(None, reader):
            if len(fields) != len(header):
                raise UserError(
                    f"{path}:{reader.line_num}: the line has not as many fields as the header "
                    f"({len(header)}). Quote fields that hold {_named(delimiter)}."
                )
            yield f"{path}:{reader.line_num}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV: {error}.") from error


def _delimiter(header: str, columns: Columns) -> str:
    """Returns what delimits a table: what makes the needed columns of its header, or most."""

    def found(delimiter: str) -> tuple[int, int]:
        names = {name.strip(' "') for name in header.split(delimiter)}
        return len(names & columns.needed.keys()), len(names)

    return max(_DELIMITERS, key=found)


def _named(delimiter: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs"}.get(delimiter, repr(delimiter))


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line, object_pairs_hook=partial(_object, where))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: each line must be a JSON object, not {line.strip()[:40]}.")
    return record


def _object(where: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _check_once([name for name, _ in pairs], where)
    return dict(pairs)


def _check_once(names: Sequence[str], where: str) -> None:
    """Checks that no column has the name of another: one of them would silently be lost."""
    for name, count in Counter(names).items():
        if name and count > 1:
            raise UserError(f"{where}: there are {count} columns {name!r}. Rename or remove one.")


def _advice(field: str, columns: Columns) -> str:
    """Returns what the column of a field holds, or how to do without the column of files."""
    if field != "image_column":
        return ""
    # With columns of several values, texts belong to files: no other input helps.
    return " It holds the path of each file." if columns.several else _OF_TEXTS


def _parse(
    where: str,
    record: Mapping[str, Any],
    columns: Columns,
    spelled: Mapping[str, str],
) -> Row:
    for column, field in columns.needed.items():
        if column not in record:
            raise UserError(
                f"{_no_column(where, column, record)} data.{field} names another."
                f"{_advice(field, columns)}"
            )
    cells = tuple(_cell(record[name]) for name in columns.cells)
    file = where.rpartition("/")[2] if cells else record[columns.image_column]
    if not isinstance(file, str) or not file:
        raise UserError(
            f"{where}: {columns.image_column} must be the path of a file, not {file!r}."
        )
    labels = _labels_in(record, columns, where)
    used = {**columns.needed, **columns.optional}
    more = {
        name: _text(value, AGAIN if name in columns.several else ";")
        for name, value in record.items()
        if name not in used and not isinstance(value, dict)
    }
    if not all(map(is_utf8, (file, *labels, *cells, *more, *more.values()))):
        raise UserError(f"{where}: half a surrogate pair is not text.")
    cell = str(record.get(columns.split_column) or "").strip()
    part = spelled.get(cell, spelled.get(cell.lower()))
    if part is None:
        raise UserError(
            f"{where}: {columns.split_column} is {cell!r}; it must be train, val or test, or empty."
            f"{did_you_mean(cell, spelled)}"
        )
    return Row(
        where=where,
        file=file,
        labels=labels,
        part=part,
        weight=_weight(record, columns, where),
        more=more,
        cells=cells,
    )


def _no_column(where: str, column: str, record: Mapping[str, Any]) -> str:
    """Returns that a column is missing, and which there are."""
    names = [textwrap.shorten(name, _SHOWN, placeholder="...") for name in record]
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    is_json = where.rpartition(":")[0].lower().endswith((".jsonl", ".ndjson"))
    line = "Its columns:" if is_json else "The first line is read as the names of the columns:"
    return f"{where}: there is no column {column!r}.{did_you_mean(column, record)} {line} {listed}."


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _labels_in(record: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, ...]:
    if columns.label_columns:
        return _marked(record, columns, where)
    column = columns.label_column
    if column is None:
        return ()
    value = record[column]
    if columns.multi_label:
        values = value.split(columns.label_separator) if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(v, (str, int)) for v in values):
            return tuple(dict.fromkeys(str(v).strip() for v in values if str(v).strip()))
        raise UserError(f"{where}: {column} must be a list of labels, not {value!r}.")
    if isinstance(value, (str, int)) and str(value).strip():
        return (str(value).strip(),)
    hint = " Set data.multi_label=true." if isinstance(value, list) else ""
    raise UserError(f"{where}: {column} must be one label, not {value!r}.{hint}")


def _marked(record: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, ...]:
    """Returns the labels whose columns hold 1."""
    marked = []
    for name in columns.label_columns or ():
        cell = "" if record[name] is None else str(record[name]).strip().lower()
        if cell not in _YES:
            raise UserError(f"{where}: {name} must be 0 or 1, not {record[name]!r}.")
        if _YES[cell]:
            marked.append(name)
    if len(marked) != 1 and not columns.multi_label:
        raise UserError(
            f"{where}: one of data.label_columns must be 1, not {', '.join(marked) or 'none'}. "
            "If any number may be, set data.multi_label=true."
        )
    return tuple(marked)


def _text(value: Any, between: str = ";") -> str:
    """A cell as CSV would have it; the separator alone tells that a list is known to be empty."""
    if isinstance(value, list):
        return between.join(map(str, value)) or between
    return "" if value is None else str(value)


def _weight(record: Mapping[str, Any], columns: Columns, where: str) -> float:
    column = columns.weight_column
    value = None if column is None else record.get(column)
    if value is None or value == "":
        return 1.0
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight <= 1e30:
        raise UserError(
            f"{where}: {column} must be a number of 0 or more, not {value!r}. If it does not "
            "weigh the loss, set data.weight_column=null."
        )
    return weight
