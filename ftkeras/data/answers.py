"""What the outputs are to answer about each example, read from a source's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ftkeras.data.dataset import Listing
from ftkeras.errors import UserError, did_you_mean, there_are
from ftkeras.outputs.base import Answers, Cells, Output
from ftkeras.outputs.kinds import KINDS


@dataclass(frozen=True)
class Question:
    """What one output is asked, and where its answers are written.

    Args:
        name: The output's name.
        column: The column of the data with the answers; "label" is what the source calls so.
        kind: One of several classes, any number of labels, or a number; see `KINDS`.
        map: What the column's values stand for; empty: themselves. To "" is: not known.
    """

    name: str
    column: str = "label"
    kind: str = "classes"
    map: Mapping[str, str] = field(default_factory=dict)

    @property
    def field(self) -> str:
        """What errors begin with."""
        return f"outputs.{self.name}"


@dataclass(frozen=True)
class Asked:
    """What a source says of one question, before the data is divided into splits."""

    question: Question
    cells: Cells
    output: Output
    answers: Answers


def ask(items: Listing, question: Question) -> Asked:
    """Reads the answers to a question. An empty cell: the answer is unknown.

    Raises:
        UserError: The column is missing, a cell cannot be read, or there are too few answers.
    """
    cells, where = _cells(items, question), question.field
    output = KINDS[question.kind].found_in(cells, where)
    try:
        values = output.values_of(cells)
    except ValueError as error:
        [index] = error.args
        text = (cells[index] or ("",))[0]
        raise UserError(
            f"{where}: {text!r} of {items.ids[index]} is not a number; leave it empty if unknown."
        ) from None
    known = [cell is not None for cell in cells]
    return Asked(question, cells, output, Answers(values, output.units, np.array(known)))


def groups_of(asked: Sequence[Asked]) -> list[tuple[str, ...]]:
    """Returns what each example is grouped by: its classes; of several outputs, `output=class`.

    Splits are stratified by it, so that they share the answers to every question.
    """
    named = [one for one in asked if one.output.class_names]
    if len(asked) == 1:
        return [cell or () for cell in asked[0].cells] if named else [()] * len(asked[0].cells)
    rows = zip(*(one.cells for one in named), strict=True)
    prefixes = [one.question.name for one in named]
    return [
        tuple(f"{n}={value}" for n, cell in zip(prefixes, row, strict=True) for value in cell or ())
        for row in rows
    ] or [()] * len(asked[0].cells)


def separator_in(labels: Sequence[str]) -> str:
    """Returns what separates several labels in one, if labels look so; otherwise ""."""
    for separator in (";", ",", "|"):
        joined = [label for label in labels if separator in label]
        pieces = {piece.strip() for label in joined for piece in label.split(separator)}
        # All are lists, or those that are lists are made of the labels that stand alone.
        if joined and (len(joined) == len(labels) or pieces <= set(labels)):
            return separator
    return ""


def separator_note(asked: Asked) -> list[str]:
    """Notes that the answers to a question look like several in one."""
    names, question = asked.output.class_names, asked.question
    separator = separator_in(names)
    if not separator:
        return []
    return [
        f"{question.field}: answers hold {separator!r}, as "
        f"{next(name for name in names if separator in name)!r} does. If that is several labels, "
        "set its kind to labels and write them as a;b."
    ]


def _cells(items: Listing, question: Question) -> list[tuple[str, ...] | None]:
    column, kind = question.column, KINDS[question.kind]
    cells: list[tuple[str, ...] | None]
    if column in items.columns:
        texts = [str(cell).strip() for cell in items.columns[column]]
        cells = [kind.cell(text) if text else None for text in texts]
    elif column == "label" and any(items.labels):
        several = items.label_kind == "labels"  # then no label at all is an answer
        cells = [tuple(names) if names or several else None for names in items.labels]
    else:
        raise UserError(_no_column(items, question))
    if question.kind == "classes" and any(len(cell or ()) > 1 for cell in cells):
        raise UserError(f"{question.field}: an example has several labels: set its kind to labels.")
    return [None if cell is None else _mapped(cell, question) for cell in cells]


def _no_column(items: Listing, question: Question) -> str:
    column = question.column
    there = [*(["label"] if any(items.labels) else []), *items.columns]
    taken = column in ("split", "weight")
    reads = f"A manifest's {column!r} is its own, unless data.{column}_column names another. "
    return (
        f"{question.field}: the data have no column {column!r}.{did_you_mean(column, there)} "
        f"{reads if taken else ''}{there_are(there, 'column')}"
    )


def _mapped(cell: tuple[str, ...], question: Question) -> tuple[str, ...] | None:
    """Returns what a cell's values stand for; None if that is: not known."""
    for value in cell if question.map else ():
        if value not in question.map:
            raise UserError(
                f"{question.field}: the map has no entry for {value!r}."
                f"{did_you_mean(value, question.map)} "
                'Add one, or map it to "" if the answer is unknown.'
            )
    names = tuple(dict.fromkeys(filter(None, (question.map.get(v, v) for v in cell))))
    return names if names or question.kind == "labels" else None
