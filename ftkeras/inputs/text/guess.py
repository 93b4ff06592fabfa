"""What the columns of a table are, for `ftkeras init`; this imports no TensorFlow."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftkeras.errors import UserError

Records = Sequence[Mapping[str, object]]

_LINES = 10_000  # of a table that are read: its lines may be sorted by label
_SEEN = 50  # lines whose cells may name files
_LEAST = 2.0  # words per cell, on average, of a column of texts; names and labels have fewer
_MOST = 8  # words of a column's name
_DELIMITERS = ",;\t|"
_NO_LABELS = ("split", "weight")  # columns with another meaning
_LABELS = ("label", "labels", "class", "category", "target")
_FILE = re.compile(r"\S.*\.[A-Za-z]\w{2,3}")  # a cell that names a file, which may be gone
_SEPARATORS = ";|"  # between several texts of a cell
_RARE = 0.1  # of the cells of a column with fewer different values, no value tells an example


@dataclass(frozen=True)
class Columns:
    """The columns of a table of texts, or of files.

    Args:
        text: The one that seems to hold the texts; "" if none does, or if the examples are files.
        label: The one that seems to hold the labels; "" if none does.
        others: All except the column of texts, or of files.
        files: The one that names files; "" if none does.
        texts: The columns that seem to hold texts about files, the most telling one first.
        separator: What stands between several texts in a cell of these; "" if nothing does.
        count: How many files are named.
    """

    text: str = ""
    label: str = ""
    others: tuple[str, ...] = ()
    files: str = ""
    texts: tuple[str, ...] = ()
    separator: str = ""
    count: int = 0

    @property
    def is_named(self) -> bool:
        """Whether the column of labels has a name that says so."""
        return self.label.lower() in _LABELS


def columns_of(path: str, files: str) -> Columns:
    """Returns the columns of a table that seem to hold texts and labels.

    They are `text` and `label` if there are such. Otherwise they are the column with the most
    words, and the other column with the fewest values, if these recur.

    Args:
        path: A .csv, .tsv or .jsonl file.
        files: The column that names files if the examples are files. The examples of a table with
            this column, or with one whose cells name files, are files. "": they are texts.

    Raises:
        UserError: The first line holds an example, not the names of the columns.

    Example:
        >>> columns_of("reviews.csv", "path")
        Columns(text='review', label='stars', others=('stars',))
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = list(itertools.islice(file, _LINES))
        records = _objects(lines) if path.endswith("l") else _records(lines)
    except (OSError, ValueError, csv.Error):  # the run reports what is wrong
        return Columns()
    columns = dict.fromkeys(name for record in records for name in record)
    if not columns:
        return Columns()
    if files and (found := _file_column(records, path, list(columns), files)):
        return _of_files(records, found, [name for name in columns if name != found])
    words = {name: _words_per_cell(records, name) for name in columns}
    text = "text" if "text" in columns else max(words, key=lambda name: words[name])
    if text != "text" and words[text] < _LEAST:
        return Columns(others=tuple(columns))
    if len(text.split()) > _MOST:
        raise UserError(
            f"init: the first line of {path} seems to be an example. Put a line with the names of "
            "the columns above it, such as text,label."
        )
    others = tuple(name for name in columns if name != text)
    return Columns(text, _label_column(records, others), others)


def _file_column(records: Records, path: str, columns: Sequence[str], usual: str) -> str:
    """Returns the column that names files, seen from the table's folder; "" if none does."""
    folder, some = os.path.dirname(path), records[:_SEEN]
    there = {name: 0 for name in columns}
    alike = dict(there)
    for name in columns:
        for cell in (record.get(name) for record in some):
            if isinstance(cell, str) and "\0" not in cell and os.path.splitext(cell)[1]:
                there[name] += os.path.isfile(os.path.join(folder, cell))
                alike[name] += _FILE.fullmatch(cell) is not None
    most = max(columns, key=lambda name: there[name])
    if there[most]:
        return most
    if usual in columns:
        return usual
    most = max(columns, key=lambda name: alike[name])
    return most if alike[most] > len(some) / 2 else ""


def _of_files(records: Records, files: str, others: Sequence[str]) -> Columns:
    """Returns what the columns beside that of files seem to hold."""
    words = {name: _words_per_cell(records, name) for name in others}
    values = {name: len({str(record.get(name)) for record in records}) for name in others}
    named = next((name for name in others if name.lower() in _LABELS), "")
    texts = [
        name
        for name in others
        if words[name] >= _LEAST and values[name] > _RARE * len(records) and name != named
    ]
    texts.sort(key=lambda name: -round(values[name] / len(records), 1))
    label = named or _label_column(records, [name for name in others if name not in texts])
    cells = [str(record.get(name)) for record in records for name in texts]
    separators = [mark for mark in _SEPARATORS if sum(mark in c for c in cells) > len(cells) / 4]
    count = len({str(record.get(files)) for record in records})
    separator = separators[0] if separators else ""
    return Columns("", label, tuple(others), files, tuple(texts), separator, count)


def _label_column(records: Records, columns: Sequence[str]) -> str:
    if "label" in columns:
        return "label"
    values = {
        name: len({str(record.get(name)) for record in records})
        for name in columns
        if name.lower() not in _NO_LABELS
    }
    recurring = [name for name in values if 1 < values[name] <= len(records) / 2]
    return min(recurring, key=lambda name: values[name], default="")


def holds_texts(folder: str) -> bool:
    """Whether most files in the first folder with files, at any depth, have names of texts."""
    for _, _, names in os.walk(folder):
        endings = [os.path.splitext(name)[1].lower() for name in names if name[0] != "."]
        if any(endings):
            return endings.count(".txt") > len(endings) / 2
    return False


def no_classes(folder: str) -> str:
    """Returns why a folder is none of class folders, by names alone; "" if it may be one.

    Example:
        >>> no_classes("photos")  # doctest: +SKIP
        "the only folder in 'photos' is 'all'. Did you mean photos/all, which has 3 folders?"
    """
    own = _folders_in(folder)
    if not own:
        return f"{folder!r} holds no folders. Make one folder for each class in it."
    inner = os.path.join(folder, own[0])
    count = len(_folders_in(inner))
    if len(own) > 1 or count < 2 or own[0].lower().startswith("train"):
        return ""
    return (
        f"the only folder in {folder!r} is {own[0]!r}. "
        f"Did you mean {inner}, which has {count} folders?"
    )


def _folders_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError:  # the run reports what is wrong
        return []
    return sorted(name for name in names if not name.startswith((".", "__MACOSX")))


def _objects(lines: Sequence[str]) -> list[Mapping[str, object]]:
    found = [json.loads(line) for line in lines if line.strip()]
    return [record for record in found if isinstance(record, dict)]


def _records(lines: Sequence[str]) -> list[Mapping[str, object]]:
    delimiter = max(_DELIMITERS, key=lines[0].count) if lines else ","
    rows = csv.reader(lines, delimiter=delimiter)  # a header, too, may hold the end of a line
    names = [name.strip() for name in next(rows, [])]
    return [dict(zip(names, row, strict=False)) for row in rows]


def _words_per_cell(records: Records, name: str) -> float:
    cells = [record.get(name) for record in records]
    rows = [[cell] if isinstance(cell, str) else cell for cell in cells if cell]
    texts = [" ".join(map(str, row)) for row in rows if isinstance(row, list)]
    words = [len(re.split(rf"[\s{_SEPARATORS}]+", text.strip())) for text in texts]
    return sum(words) / max(len(words), 1)
