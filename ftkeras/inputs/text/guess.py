"""Whether data that a config is written for are texts; this imports no TensorFlow."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Mapping, Sequence

_LINES = 50  # of a table that are read
_LEAST = 2.0  # words per cell, on average, of a column of texts; names and labels have fewer
_DELIMITERS = ",;\t|"


def text_column(path: str, files: str) -> str:
    """Returns the column of a table that seems to hold texts; "" if none does.

    It is `text` if there is one, otherwise the column with the most words.

    Args:
        path: A .csv, .tsv or .jsonl file.
        files: The column that names files, if the examples are files.

    Example:
        >>> text_column("reviews.csv", "path")
        'review'
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = list(itertools.islice(file, _LINES))
        records = _objects(lines) if path.endswith("l") else _records(lines)
    except (OSError, ValueError, csv.Error):  # the run says what is wrong
        return ""
    columns = dict.fromkeys(name for record in records for name in record)
    if files in columns or not columns:
        return ""
    if "text" in columns:
        return "text"
    words = {name: _words_per_cell(records, name) for name in columns}
    longest = max(words, key=lambda name: words[name])
    return longest if words[longest] >= _LEAST else ""


def holds_texts(folder: str) -> bool:
    """Whether the first file under a folder that says what it is by its name is a text."""
    for _, _, names in os.walk(folder):
        endings = [os.path.splitext(name)[1] for name in names if not name.startswith(".")]
        if any(endings):
            return all(ending.lower() == ".txt" for ending in endings if ending)
    return False


def _objects(lines: Sequence[str]) -> list[Mapping[str, object]]:
    found = [json.loads(line) for line in lines if line.strip()]
    return [record for record in found if isinstance(record, dict)]


def _records(lines: Sequence[str]) -> list[Mapping[str, object]]:
    header = lines[0].rstrip("\r\n") if lines else ""
    delimiter = max(_DELIMITERS, key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    rows = csv.reader(lines[1:], delimiter=delimiter)
    return [dict(zip(names, row, strict=False)) for row in rows]


def _words_per_cell(records: Sequence[Mapping[str, object]], name: str) -> float:
    cells = [record.get(name) for record in records]
    words = [len(cell.split()) for cell in cells if isinstance(cell, str)]
    return sum(words) / max(len(words), 1)
