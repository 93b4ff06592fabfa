"""Predictions as files that spreadsheets and scripts read."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, TextIO

import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.evaluation.predict import FilePrediction


def write_predictions(
    path: str | os.PathLike[str] | None, rows: Iterable[FilePrediction]
) -> tuple[int, int]:
    """Writes predictions as they come, so that an interruption keeps those that were made.

    CSV has the columns file, class, score, class_2, score_2, ..., error. JSON Lines has an object
    a line: {"file": ..., "predictions": [{"class": ..., "score": ...}, ...]}, or {"file": ...,
    "error": ...}.

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
    """Opens for writing at once, where GFile alone would wait for the first write."""
    if path is None:
        yield sys.stdout
        return
    with tf.io.gfile.GFile(path, "w") as file:
        try:
            file.write("")
        except tf.errors.OpError as error:
            raise UserError(
                f"predict: cannot write {os.fspath(path)!r}: {error.message}. Choose another path."
            ) from error
        yield file


def _write_csv(file: TextIO, rows: Iterator[FilePrediction]) -> None:
    head, classes = [], 1
    for row in rows:  # up to the first answer, which says how many columns there are
        head.append(row)
        if row.best:
            classes = len(row.best)
            break
    more = [f"{name}_{i}" for i in range(2, classes + 1) for name in ("class", "score")]
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["file", "class", "score", *more, "error"])
    for row in chain(head, rows):
        best = [cell for name, score in row.best for cell in (name, f"{score:.6f}")]
        table.writerow([row.file, *(best or [""] * 2 * classes), row.error])


def _write_json_lines(file: TextIO, rows: Iterator[FilePrediction]) -> None:
    for row in rows:
        file.write(json.dumps(_record(row), ensure_ascii=False) + "\n")


def _record(row: FilePrediction) -> dict[str, Any]:
    if row.error:
        return {"file": row.file, "error": row.error}
    best = [{"class": name, "score": round(score, 6)} for name, score in row.best]
    return {"file": row.file, "predictions": best}


_WRITERS = {".csv": _write_csv, ".jsonl": _write_json_lines}
