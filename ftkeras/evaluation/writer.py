"""Predictions as files that spreadsheets and scripts read."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TextIO

import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.evaluation.predict import FilePrediction


def write_predictions(
    path: str | os.PathLike[str] | None, rows: Iterable[FilePrediction]
) -> tuple[int, int]:
    """Writes predictions as they come, so that an interruption keeps those that were made.

    CSV has the columns of the rows' `cells`; JSON Lines has each row's `record`.

    Args:
        path: A .csv or .jsonl file, local or remote; None prints CSV.
        rows: What `predict_files` yields; not asked before the file is open.

    Returns:
        How many files were answered, and how many could not be read.

    Raises:
        UserError: The path cannot be written, or its ending names no format.
    """
    suffix = ".csv" if path is None else os.path.splitext(path)[1].lower()
    if suffix not in _WRITERS:
        raise UserError(f"predict: {os.fspath(path or '')!r} must end in .csv or .jsonl.")
    answered = failed = 0

    def counted() -> Iterator[FilePrediction]:
        nonlocal answered, failed
        for row in rows:
            answered += not row.error
            failed += bool(row.error)
            yield row

    with _opened(path) as file:
        _WRITERS[suffix](file, counted())
    return answered, failed


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str] | None) -> Iterator[TextIO]:
    """Opens for writing at once, while GFile alone would wait for the first write."""
    if path is None:
        yield sys.stdout
        return
    file = tf.io.gfile.GFile(path, "w")
    try:
        file.write("")  # before `with`: TensorFlow 2.22 fails once more when it closes such a file
    except tf.errors.OpError as error:
        raise UserError(
            f"predict: cannot write {os.fspath(path)!r}: {error.message}. Choose another path."
        ) from error
    with file:
        yield file


def _write_csv(file: TextIO, rows: Iterator[FilePrediction]) -> None:
    head = []
    for row in rows:  # up to the first answer, which says which columns there are
        head.append(row)
        if not row.error:
            break
    columns = list(head[-1].cells()) if head else ["file", "error"]
    table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    table.writeheader()
    for row in chain(head, rows):
        table.writerow(row.cells())


def _write_json_lines(file: TextIO, rows: Iterator[FilePrediction]) -> None:
    for row in rows:
        file.write(json.dumps(row.record(), ensure_ascii=False) + "\n")


_WRITERS = {".csv": _write_csv, ".jsonl": _write_json_lines}
