"""Whether data are texts, for `ftkeras init`; this imports no TensorFlow."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftkeras.errors import UserError

_LINES = 10_000  # of a table that are read: its lines may be sorted by label
_SEEN = 50  # lines whose cells may name files
_LEAST = 2.0  # words per cell, on average, of a column of texts; names and labels have fewer
_MOST = 8  # words of a column's name
_DELIMITERS = ",;\t|"
_NO_LABELS = ("split", "weight")  # columns with another meaning


@dataclass(frozen=True)
class Columns:
    """The columns of a table of texts.

    Args:
        text: The one that seems to hold the texts; "" if none does.
        label: The one that seems to hold the labels; "" if none does.
        others: All except the column of texts.
    """

    text: str = ""
    label: str = ""
    others: tuple[str, ...] = ()


def columns_of(path: str, files: str) -> Columns:
    """Returns the columns of a table that seem to hold texts and labels.

    They are `text` and `label` if there are such. Otherwise they are the column with the most
    words, and the other column with the fewest values, if these recur.

    Args:
        path: A .csv, .tsv or .jsonl file.
        files: The column that names files if the examples are files. A table with this column,
            or with one whose cells name files that exist, has no texts. "": it has texts.

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
    if not columns or (files and (files in columns or _name_files(records, path))):
        return Columns()
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


def _name_files(records: Sequence[Mapping[str, object]], path: str) -> bool:
    """Whether a cell in the first lines names a file, seen from the table's folder."""
    folder = os.path.dirname(path)
    cells = [cell for record in records[:_SEEN] for cell in record.values()]
    return any(
        os.path.isfile(os.path.join(folder, cell))
        for cell in cells
        if isinstance(cell, str) and os.path.splitext(cell)[1] and "\0" not in cell
    )


def _label_column(records: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    if "label" in columns:
        return "label"
    values = {
        name: len({str(record.get(name)) for record in records})
        for name in columns
        if name.lower() not in _NO_LABELS
    }
    fewest = min(values, key=lambda name: values[name], default="")
    return fewest if fewest and 1 < values[fewest] <= len(records) / 2 else ""


def holds_texts(folder: str) -> bool:
    """Whether most files in the first folder with files, at any depth, have names of texts."""
    for _, _, names in os.walk(folder):
        endings = [os.path.splitext(name)[1].lower() for name in names if name[0] != "."]
        if any(endings):
            return endings.count(".txt") > len(endings) / 2
    return False


def _objects(lines: Sequence[str]) -> list[Mapping[str, object]]:
    found = [json.loads(line) for line in lines if line.strip()]
    return [record for record in found if isinstance(record, dict)]


def _records(lines: Sequence[str]) -> list[Mapping[str, object]]:
    delimiter = max(_DELIMITERS, key=lines[0].count) if lines else ","
    rows = csv.reader(lines, delimiter=delimiter)  # a header, too, may hold the end of a line
    names = [name.strip() for name in next(rows, [])]
    return [dict(zip(names, row, strict=False)) for row in rows]


def _words_per_cell(records: Sequence[Mapping[str, object]], name: str) -> float:
    cells = [record.get(name) for record in records]
    words = [len(cell.split()) for cell in cells if isinstance(cell, str)]
    return sum(words) / max(len(words), 1)
