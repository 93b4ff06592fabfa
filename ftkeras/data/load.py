"""From a source's name and settings to data that is ready to train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ftkeras.data.answers import Asked, Question, ask, groups_of, separator_note
from ftkeras.data.dataset import Data, Listing, Split
from ftkeras.data.reasons import sum_up
from ftkeras.data.sources import SOURCES
from ftkeras.data.spelling import other_spelling
from ftkeras.data.splits import divide
from ftkeras.errors import UserError, did_you_mean
from ftkeras.files import whole_path
from ftkeras.inputs.base import Input
from ftkeras.inputs.registry import make_input
from ftkeras.outputs.base import Answers, Output
from ftkeras.outputs.kinds import SOURCE, classes_of

_IMBALANCE = 10  # the ratio of class counts above which balancing is suggested


@dataclasses.dataclass(frozen=True)
class Expected:
    """What is expected of the labels that a source gives.

    Args:
        classes: Classes that are known already: they come first, and need no example here.
        labelled: Whether the labels matter; otherwise there may be a single one, or some in no
            training.
        strict: Whether too many bad files, or a label that training lacks, are errors; otherwise
            they are for the caller to find.
    """

    classes: Sequence[str] = ()
    labelled: bool = True
    strict: bool = True


def load_data(
    source: str,
    *,
    seed: int = 0,
    max_bad_files: float = 0.05,
    split: Mapping[str, float | str | None] | None = None,
    expected: Expected = Expected(),  # noqa: B008 (it is frozen)
    kind: Input | None = None,
    questions: Sequence[Question] = (),
    **source_args: Any,
) -> Data:
    """Finds the examples of a source, checks them, and divides them into splits.

    Args:
        source: One of `SOURCES`.
        seed: Chooses among the possible splits.
        max_bad_files: The share of bad files above which this is an error.
        split: For "train", "val" and "test" a fraction, a name of the source's own, or None; see
            `splits.divide`.
        expected: What is expected of the labels.
        kind: What the examples are; left out, the registry's default.
        questions: What each output is asked; none: one output answers what the labels say.
        **source_args: What the source takes; see its `find`.

    Raises:
        UserError: Nothing sensible can be trained on what was found.

    Example:
        >>> data = load_data("starter", seed=1)
        >>> {name: len(split) for name, split in data.splits.items()}
        {'train': 1700, 'val': 300, 'test': 1000}
    """
    kind = kind or make_input()
    items = _found(source, split or {}, kind, source_args)
    _check_bad_share(items, max_bad_files if expected.strict else 1.0, kind)
    asked = [ask(items, question) for question in questions]
    items = _grouped(items, asked) if asked else items
    class_names = _class_names(items, expected, kind)
    number = {name: i for i, name in enumerate(class_names)}
    labels = _numbers(items, number, kind.nouns)
    parts = divide(items, split, labels, seed)
    if expected.strict and expected.labelled:
        _check_labels(items, class_names, labels, parts, kind, known=len(expected.classes))
    splits = {
        name: _split(name, items, indices, [labels[i] for i in indices], len(class_names))
        for name, indices in parts.items()
    }
    # With classes that are known already, more examples of them may be about to come.
    uneven = [] if expected.classes else _imbalance_note(class_names, splits["train"], kind.nouns)
    outputs: dict[str, Output] = {SOURCE: classes_of(items.label_kind, class_names)}
    if asked:
        outputs = _fitted(asked, class_names, parts)
        splits = {n: _answered(split, asked, outputs, parts[n]) for n, split in splits.items()}
    return Data(
        source=source,
        outputs=outputs,
        splits=splits,
        bad_files=items.bad_files,
        notes=(*items.notes, *chain.from_iterable(map(separator_note, asked)), *uneven),
    )


def _found(
    source: str, split: Mapping[str, Any], kind: Input, source_args: dict[str, Any]
) -> Listing:
    """Returns what a source finds; paths are whole from here on."""
    if source not in SOURCES:
        raise UserError(
            f"data.source: there is no source {source!r}.{did_you_mean(source, SOURCES)} "
            f"Choose one of {', '.join(SOURCES)}."
        )
    for place in {"path", "data_dir"} & source_args.keys():
        if source_args[place] is not None:
            source_args[place] = whole_path(source_args[place])
    names = {part: value for part, value in split.items() if isinstance(value, str)}
    return SOURCES[source](parts=names, kind=kind, **source_args)


def _class_names(items: Listing, expected: Expected, kind: Input) -> tuple[str, ...]:
    """Returns the names of all classes; UserError if there is nothing to tell apart."""
    named = sorted({name for names in items.labels for name in names})
    class_names = tuple(dict.fromkeys((*expected.classes, *(items.class_names or named))))
    if not (expected.strict and expected.labelled):
        class_names += tuple(name for name in named if name not in class_names)
    if expected.labelled and len(class_names) < 2 and items.label_kind == "classes":
        raise UserError(
            f"data: all {kind.nouns} have one label, {class_names[0]!r}. "
            f"Give {kind.nouns} of two classes or more.{items.hint}"
        )
    return class_names


def _split(
    name: str, items: Listing, indices: np.ndarray, labels: Sequence[Sequence[int]], classes: int
) -> Split:
    return Split(
        name=name,
        ids=[items.ids[i] for i in indices],
        labels=_label_array(labels, classes, items.label_kind),
        classes=classes,
        fetch=items.make_fetch(indices),
        weights=None if items.weights is None else items.weights[indices].astype(np.float32),
        columns={column: values[indices] for column, values in items.columns.items()},
        files=None if items.files is None else [items.files[i] for i in indices],
    )


def _grouped(items: Listing, asked: Sequence[Asked]) -> Listing:
    """Returns what a source found, with the answers in place of its labels."""
    used = {one.question.column for one in asked}
    only = asked[0].question.kind if len(asked) == 1 else ""
    return dataclasses.replace(
        items,
        labels=groups_of(asked),
        class_names=None,
        label_kind="classes" if only == "classes" else "labels",
        columns={name: values for name, values in items.columns.items() if name not in used},
    )


def _fitted(
    asked: Sequence[Asked], class_names: tuple[str, ...], parts: Mapping[str, np.ndarray]
) -> dict[str, Output]:
    """Returns the outputs by name, numbers in units of their spread in training.

    Raises:
        UserError: Training has no answer to a question, or the same number always.
    """
    outputs: dict[str, Output] = {}
    for one in asked:
        train = one.answers.of(parts["train"])
        if not len(train.places):
            raise UserError(f"{one.question.field}: no training example has an answer. Add some.")
        if len(asked) == 1 and class_names:  # some may be known besides those that were found
            outputs[one.question.name] = classes_of(one.question.kind, class_names)
        else:
            fitted = one.output.fitted(train.values[train.places], one.question.field)
            outputs[one.question.name] = fitted
    return outputs


def _answered(
    split: Split, asked: Sequence[Asked], outputs: Mapping[str, Output], indices: np.ndarray
) -> Split:
    """Returns a split with the answers to each question, unless its labels say all of them."""
    answers = {
        one.question.name: outputs[one.question.name].in_own_units(one.answers.of(indices))
        for one in asked
    }
    if len(asked) == 1:
        [(name, only)] = answers.items()
        known = None if len(only.places) == len(split) else only.known
        if split.classes:
            answers = {} if known is None else {name: Answers(split.labels, split.classes, known)}
        else:
            answers = {name: dataclasses.replace(only, known=known)}
    return dataclasses.replace(split, answers=answers)


def _numbers(items: Listing, number: Mapping[str, int], nouns: str) -> list[list[int]]:
    """The class indices of each example; an example's label must be a class."""
    numbers = []
    for key, names in zip(items.ids, items.labels, strict=True):
        for name in names:
            if name not in number:
                raise UserError(
                    f"data: the label {name!r} of {key} is missing from training."
                    f"{other_spelling(name, number)} Add training {nouns} of it, or take it out "
                    "of val and test."
                )
        numbers.append([number[name] for name in names])
    return numbers


def _label_array(labels: Sequence[Sequence[int]], classes: int, kind: str) -> np.ndarray:
    if kind == "classes":
        return np.array([row[0] if row else -1 for row in labels], np.int32)  # (n,)
    hot = np.zeros((len(labels), classes), np.float32)
    for row, numbers in zip(hot, labels, strict=True):
        row[list(numbers)] = 1.0
    return hot  # (n, classes)


def _check_bad_share(items: Listing, max_bad_files: float, kind: Input) -> None:
    nouns = kind.nouns
    bad, total = len(items.bad_files), len(items.bad_files) + len(items.ids)
    if total == 0:
        raise UserError(f"data: there are no {nouns}. Check the source's path and parts.")
    if bad == total:  # no limit would help
        listed = items.bad_files[0].noun == "line" and kind.cells
        what = f"what data.input reads ({', '.join(kind.cells)})" if listed else "the files"
        raise UserError(
            f"data: none of {total} {nouns} can be used: {sum_up(items.bad_files)}. Check {what}."
        )
    if bad > max_bad_files * total:
        raise UserError(
            f"data: {bad} of {total} {nouns} cannot be used ({bad / total:.1%}, and "
            f"data.max_bad_files is {max_bad_files:.1%}): "
            f"{sum_up(items.bad_files)}. Fix or remove them, or raise the limit."
        )


def _check_labels(
    items: Listing,
    class_names: Sequence[str],
    labels: Sequence[Sequence[int]],
    parts: Mapping[str, np.ndarray],
    kind: Input,
    known: int = 0,
) -> None:
    """Every class is in training or among the first, which are known; so are val's and test's.

    The training examples of each class count in the loss.
    """
    trained = {label for i in parts.get("train", ()) for label in labels[i]} | set(range(known))
    for part in ("val", "test"):
        for i in parts.get(part, ()):
            for label in set(labels[i]) - trained:
                name, known_names = class_names[label], [class_names[n] for n in sorted(trained)]
                raise UserError(
                    f"data: the label {name!r} of {items.ids[i]} ({part}) is missing from training."
                    f"{other_spelling(name, known_names)} Add training {kind.nouns} of it, or take "
                    f"it out of {part}."
                )
    for label, name in enumerate(class_names):
        if label not in trained:
            raise UserError(
                f"data: the class {name!r} has no usable {kind.noun} to train on. "
                f"Add {kind.nouns} of it, or remove the class."
            )
    _check_weights(items, class_names, labels, parts.get("train", ()), kind)


def _check_weights(
    items: Listing,
    class_names: Sequence[str],
    labels: Sequence[Sequence[int]],
    train: Iterable[int],
    kind: Input,
) -> None:
    """The training examples of every class count in the loss, if examples have weights."""
    if items.weights is None:
        return
    train = list(train)
    there = {label for i in train for label in labels[i]}
    counting = [i for i in train if items.weights[i] > 0]
    weightless = sorted(there - {label for i in counting for label in labels[i]})
    if weightless or not counting:
        of = f" of the class {class_names[weightless[0]]!r}" if weightless else ""
        raise UserError(
            f"data: all training {kind.nouns}{of} have the weight 0, so nothing would be learned "
            f"from them. If data.weight_column holds something else, set it to null."
        )


def _imbalance_note(class_names: Sequence[str], train: Split, nouns: str) -> list[str]:
    counts = train.counts  # (classes,)
    if not len(counts):
        return []
    most, least = int(np.argmax(counts)), int(np.argmin(counts))
    if counts[most] <= _IMBALANCE * counts[least]:
        return []
    return [
        f"Class {class_names[most]!r} has {counts[most]} training {nouns} and "
        f"{class_names[least]!r} has {counts[least]}: consider data.balance=sampling or "
        "data.balance=class_weights."
    ]
