"""Several questions about each image: what a model's heads are to answer, where that is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ftkeras.data.dataset import Head, ImageData, Listing, Split, Target
from ftkeras.errors import UserError, did_you_mean

Kind = Literal["classes", "labels", "number"]


@dataclass(frozen=True)
class Question:
    """What one head is asked, and where its answers are written.

    Args:
        name: The head's name.
        column: The column of the data with the answers; "label" is what the source calls so.
        kind: One of several classes, any number of labels, or a number.
        map: What the column's values stand for; empty: themselves. To "" is: not known.
    """

    name: str
    column: str = "label"
    kind: Kind = "classes"
    map: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answers:
    """What a column says of each example: names or a number, None where nothing."""

    names: list[tuple[str, ...] | None]
    numbers: np.ndarray


def with_targets(items: Listing, questions: Sequence[Question]) -> Listing:
    """Returns what a source found with a target for each question.

    An empty cell is a label that nobody knows: the example says nothing to that head. What the
    examples are labelled with becomes all that is known of them, as `head=value`, so that splits
    are stratified by every head.

    Args:
        items: The examples; their columns (or labels) hold the answers.
        questions: What to ask; their names differ.

    Raises:
        UserError: A column is missing, a cell cannot be read, or a head has too few answers.
    """
    answers = {q.name: _read(items, q) for q in questions}
    every: list[tuple[str, ...]] = [
        tuple(f"{name}={value}" for name, a in answers.items() for value in (a.names[i] or ()))
        for i in range(len(items.ids))
    ]
    used = {q.column for q in questions}
    return dataclasses.replace(
        items,
        labels=every,
        class_names=None,
        multi_label=True,
        columns={name: values for name, values in items.columns.items() if name not in used},
        targets={q.name: _target(q, answers[q.name]) for q in questions},
    )


def standardised(data: ImageData) -> ImageData:
    """Returns the data with numbers in units of their spread in training, around their mean there.

    Raises:
        UserError: Training has no answer to a question, or the same number always.
    """
    heads, train = [], data.splits["train"]
    for name, target in train.targets.items():
        known = target.values[target.known]
        head = Head(name, target.kind, target.class_names)
        if not len(known):
            raise UserError(
                f"multi_task.heads: no training image has an answer for {name!r}. Add some."
            )
        if target.kind == "number":
            head = dataclasses.replace(
                head,
                mean=float(known.mean(dtype=np.float64)),
                scale=float(known.std(dtype=np.float64)),
            )
            if head.scale <= 1e-12 * max(1.0, abs(head.mean)):
                raise UserError(
                    f"multi_task.heads: {name!r} is {head.mean:g} for every training image."
                )
        heads.append(head)
    splits = {
        part: dataclasses.replace(split, targets=_in_units(split, heads))
        for part, split in data.splits.items()
    }
    return dataclasses.replace(data, splits=splits, heads=tuple(heads))


def _in_units(split: Split, heads: Sequence[Head]) -> dict[str, Target]:
    targets = dict(split.targets)
    for head in heads:
        if head.kind == "number":
            target = targets[head.name]
            known = target.known[:, None]  # (n, 1)
            values = np.where(known, (target.values - head.mean) / head.scale, 0.0)
            targets[head.name] = dataclasses.replace(target, values=values.astype(np.float32))
    return targets


def _read(items: Listing, question: Question) -> _Answers:
    column, where = question.column, f"multi_task.heads: {question.name}"
    cells: list[tuple[str, ...]]
    if column in items.columns:
        texts = [str(cell).strip() for cell in items.columns[column]]
        several = question.kind == "labels"
        cells = [
            tuple(filter(None, map(str.strip, text.split(";")))) if several else (text,)
            for text in texts
        ]
        known = [bool(text) for text in texts]
    elif column == "label" and any(items.labels):
        cells = [tuple(names) for names in items.labels]
        known = [bool(names) or items.multi_label for names in cells]
    else:
        there = [*(["label"] if any(items.labels) else []), *items.columns]
        taken = column in ("split", "weight")
        reads = f"A manifest's {column!r} is its own, unless data.{column}_column names another. "
        raise UserError(
            f"{where}: the data have no column {column!r}.{did_you_mean(column, there)} "
            f"{reads if taken else ''}There are {', '.join(there) or 'none'}."
        )
    if question.kind == "classes" and any(len(names) > 1 for names in cells):
        raise UserError(f"{where}: images have several labels: set its kind to labels.")
    names: list[tuple[str, ...] | None] = [None] * len(cells)
    numbers = np.full(len(cells), np.nan, np.float32)
    for i, cell in enumerate(cells):
        cell = tuple(_mapped(name, question, where) for name in cell) if known[i] else cell
        if not known[i] or (question.kind != "labels" and not any(cell)):
            continue
        if question.kind == "number":
            numbers[i] = _number(cell[0], where, items.ids[i])
        else:
            names[i] = tuple(dict.fromkeys(filter(None, cell)))
    return _Answers(names, numbers)


def _mapped(value: str, question: Question, where: str) -> str:
    if not question.map:
        return value
    if value not in question.map:
        raise UserError(
            f"{where}: the map has no entry for {value!r}.{did_you_mean(value, question.map)} "
            'Add one, or map it to "" where the answer is not known.'
        )
    return question.map[value]


def _number(text: str, where: str, key: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= 1e30:
        raise UserError(f"{where}: {text!r} of {key} is not a number; leave it empty if unknown.")
    return number


def _target(question: Question, answers: _Answers) -> Target:
    if question.kind == "number":
        known = ~np.isnan(answers.numbers)
        return Target("number", np.nan_to_num(answers.numbers)[:, None], known)
    class_names = tuple(sorted({name for names in answers.names for name in names or ()}))
    if len(class_names) < (2 if question.kind == "classes" else 1):
        received = f"one answer, {class_names[0]!r}" if class_names else "no answer"
        raise UserError(
            f"multi_task.heads: {question.name}: there is {received} in {question.column!r}; "
            "a head needs two or more."
        )
    index_of = {name: i for i, name in enumerate(class_names)}
    known = np.array([names is not None for names in answers.names])
    if question.kind == "classes":
        indices = [index_of[names[0]] if names else -1 for names in answers.names]
        return Target("classes", np.array(indices, np.int32), known, class_names)
    hot = np.zeros((len(answers.names), len(class_names)), np.float32)
    for row, names in zip(hot, answers.names, strict=True):
        row[[index_of[name] for name in names or ()]] = 1.0
    return Target("labels", hot, known, class_names)
