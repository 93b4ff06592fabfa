"""What a data set is, between its source and the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.outputs.base import Answers, Output
from ftkeras.outputs.kinds import group_names

Fetch = Callable[[tf.Tensor], tf.Tensor]
"""From an index, int64 scalar, to a raw example: bytes, a string or an array; TensorFlow alone."""


@dataclass(frozen=True)
class BadFile:
    """A file (or record) that was left out, and why; `where` is the line that lists it."""

    path: str
    reason: str
    where: str = ""

    @property
    def noun(self) -> str:
        """What people call it: the example may stand in the line itself."""
        return "line" if self.where and self.where.endswith(self.path) else "file"

    @property
    def why(self) -> str:
        """The reason, and the line that lists the file."""
        return f"{self.reason} ({self.where})" if self.where else self.reason


@dataclass(frozen=True)
class Listing:
    """What a source found, before it is divided into splits.

    Args:
        ids: A key for each example that stays the same from machine to machine, such as its path
            under the data folder. (n,)
        labels: The names of each example's labels, (n,); one each if `label_kind` is "classes".
        parts: "train", "val", "test", or "" if the source leaves it open. (n,)
        make_fetch: Given example indices (m,) int64, returns `Split.fetch` for those examples.
        class_names: All classes in order, if the source knows them; otherwise they are sorted.
        weights: Each example's weight in the loss, float32 (n,), or None.
        label_kind: "classes" if each example has one label, "labels" if it may have any number.
        columns: More that is known of the examples, str (n,) each, to be measured by value.
        files: The file that each example is read from, (n,), where it is read from one.
        bad_files: What was left out.
        notes: Sentences for the user.
        hint: A sentence for the error that all examples have one label, after a space.
    """

    ids: Sequence[str]
    labels: Sequence[Sequence[str]]
    parts: Sequence[str]
    make_fetch: Callable[[np.ndarray], Fetch]
    class_names: Sequence[str] | None = None
    weights: np.ndarray | None = None
    label_kind: str = "classes"
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Sequence[str] | None = None
    bad_files: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class Split:
    """One part of a data set: labels in memory, raw examples fetched by index.

    Args:
        name: "train", "val" or "test", perhaps of something: "target_train".
        ids: A key for each example. (n,)
        labels: What examples are grouped by: int32 (n,) class indices, -1 if unknown, or float32
            (n, classes) multi-hot.
        classes: How many groups there are.
        fetch: Fetches a raw example by its index.
        weights: float32 (n,) weights in the loss, or None.
        columns: More that is known of the examples, str (n,) each.
        files: The file that each example is read from, (n,), where it is read from one.
        answers: What each output is to say, by name; none if that is what the labels say.
        content: Differs if what else belongs to the examples does; a run that resumes needs the
            same.
    """

    name: str
    ids: Sequence[str]
    labels: np.ndarray
    classes: int
    fetch: Fetch
    weights: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Sequence[str] | None = None
    answers: Mapping[str, Answers] = field(default_factory=dict)
    content: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: np.ndarray) -> Split:
        """Returns some of the examples, in the order of their indices `chosen` (m,)."""
        indices = tf.constant(chosen, tf.int64)
        return dataclasses.replace(
            self,
            ids=[self.ids[i] for i in chosen],
            labels=self.labels[chosen],
            fetch=lambda index: self.fetch(tf.gather(indices, index)),
            weights=None if self.weights is None else self.weights[chosen],
            columns={name: column[chosen] for name, column in self.columns.items()},
            files=None if self.files is None else [self.files[i] for i in chosen],
            answers={name: answers.of(chosen) for name, answers in self.answers.items()},
        )

    @property
    def counts(self) -> np.ndarray:
        """How many examples each class has, int64 (classes,)."""
        if self.labels.ndim == 1:
            return np.bincount(self.labels[self.labels >= 0], minlength=self.classes)
        return np.count_nonzero(self.labels, axis=0)

    def answers_to(self, name: str) -> Answers:
        """Returns what an output is to say."""
        return self.answers.get(name) or Answers(self.labels, self.classes)

    def make_target(self) -> Callable[[tf.Tensor], Any]:
        """Returns int64 index (...) -> targets float32 (..., units); of several outputs a dict."""
        each = {name: answers.make_target() for name, answers in self.answers.items()}
        if len(each) > 1:
            return lambda index: {name: make(index) for name, make in each.items()}
        [only] = each.values() if each else [Answers(self.labels, self.classes).make_target()]
        return only


def joined(first: Split | None, second: Split | None) -> Split:
    """Returns the examples of two splits of the same classes, those of the first before."""
    if first is None or second is None:
        only = second if first is None else first
        assert only is not None
        return only
    count = len(first)
    specs = [tf.data.Dataset.range(1).map(split.fetch).element_spec for split in (first, second)]
    alike = specs[0].dtype == specs[1].dtype

    def as_file(raw: tf.Tensor) -> tf.Tensor:  # kept images are arrays, and may stand beside files
        return raw if alike or raw.dtype == tf.string else tf.io.encode_png(raw)

    def fetch(index: tf.Tensor) -> tf.Tensor:
        raw = tf.cond(
            index < count,
            lambda: as_file(first.fetch(tf.minimum(index, count - 1))),
            lambda: as_file(second.fetch(tf.maximum(index - count, 0))),
        )
        return raw if raw.dtype == tf.string else tf.ensure_shape(raw, shape)

    shape = specs[0].shape.most_specific_compatible_shape(specs[1].shape)
    both = (first, second)
    weights = [np.ones(len(s), np.float32) if s.weights is None else s.weights for s in both]
    weighted = first.weights is not None or second.weights is not None
    named = first.files is not None and second.files is not None
    return dataclasses.replace(
        first,
        ids=[*first.ids, *second.ids],
        labels=np.concatenate([first.labels, second.labels]),
        fetch=fetch,
        weights=np.concatenate(weights) if weighted else None,
        columns={
            name: np.concatenate([s.columns.get(name, np.full(len(s), "")) for s in both])
            for name in dict.fromkeys((*first.columns, *second.columns))
        },
        files=[*(first.files or ()), *(second.files or ())] if named else None,
        answers={name: own.joined(second.answers_to(name)) for name, own in first.answers.items()},
    )


@dataclass(frozen=True)
class Data:
    """A data set that is ready to train on.

    Args:
        source: The name of its source.
        outputs: What a model is to answer, by name.
        splits: Always "train"; "val" and "test" if they exist.
        bad_files: What was left out.
        notes: Sentences for the user.
    """

    source: str
    outputs: Mapping[str, Output]
    splits: dict[str, Split]
    bad_files: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the columns of `Split.labels` mean; see `group_names`."""
        return group_names(self.outputs)
