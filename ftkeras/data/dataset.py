"""What a data set is, between its source and the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import tensorflow as tf

Fetch = Callable[[tf.Tensor], tf.Tensor]
"""From an index, int64 scalar, to a raw example: bytes, a string or an array; TensorFlow alone."""


@dataclass(frozen=True)
class BadFile:
    """A file (or record) that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Target:
    """What one of several heads is to say of each example, where that is known.

    Args:
        kind: One of several classes, any number of labels, or a number.
        values: int32 (n,) class indices, float32 (n, classes) multi-hot, or float32 (n, 1) numbers;
            anything where the answer isn't known.
        known: Whether it is, bool (n,).
        class_names: The classes or labels, in the order of the logits.
    """

    kind: Literal["classes", "labels", "number"]
    values: np.ndarray
    known: np.ndarray
    class_names: tuple[str, ...] = ()

    def of(self, indices: np.ndarray) -> Target:
        """Returns the target of some of the examples."""
        return dataclasses.replace(self, values=self.values[indices], known=self.known[indices])

    @property
    def weights(self) -> np.ndarray:
        """Each example's weight in the loss, float32 (n,): none where nothing is known.

        The others weigh more in return, so that the mean over all examples is the mean over those
        that are known: a mean that is right on any number of replicas, and in every epoch.
        """
        return (self.known / max(self.known.mean(), 1e-12)).astype(np.float32)

    def make_target(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns int64 index (...) -> float32 (..., units): one-hot, multi-hot, or a number."""
        values = tf.constant(self.values)
        if self.kind == "classes":  # what isn't known has no 1
            return lambda index: tf.one_hot(tf.gather(values, index), len(self.class_names))
        return lambda index: tf.gather(values, index)


@dataclass(frozen=True)
class Head:
    """What one of several outputs of a model means.

    Args:
        name: Its name.
        kind: One of several classes, any number of labels, or a number.
        class_names: The classes or labels, in the order of the logits.
        mean: What an output of 0 means, for a number.
        scale: How much more an output of 1 means.
    """

    name: str
    kind: Literal["classes", "labels", "number"]
    class_names: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @property
    def units(self) -> int:
        """How many numbers the output has."""
        return len(self.class_names) or 1


@dataclass(frozen=True)
class Listing:
    """What a source found, before it is divided into splits.

    Args:
        ids: A key for each example that stays the same from machine to machine, such as its path
            under the data folder. (n,)
        labels: The names of each example's labels, (n,); one each unless `multi_label`.
        parts: "train", "val", "test", or "" where the source leaves it open. (n,)
        make_fetch: Given example indices (m,) int64, returns `Split.fetch` for those examples.
        class_names: All classes in order, where the source knows them; else they are sorted.
        weights: Each example's weight in the loss, float32 (n,), or None.
        multi_label: Whether an example may have any number of labels.
        columns: More that is known of the examples, str (n,) each, to be measured by value.
        files: The file that each example is read from, (n,), where it is read from one.
        targets: What each of several heads is to say, by name; none where the labels say it.
        bad_files: What was left out.
        notes: Sentences for the user.
    """

    ids: Sequence[str]
    labels: Sequence[Sequence[str]]
    parts: Sequence[str]
    make_fetch: Callable[[np.ndarray], Fetch]
    class_names: Sequence[str] | None = None
    weights: np.ndarray | None = None
    multi_label: bool = False
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Sequence[str] | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)
    bad_files: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """One part of a data set: labels in memory, raw examples fetched by index.

    Args:
        name: "train", "val" or "test", perhaps of something: "target_train".
        ids: A key for each example. (n,)
        labels: int32 (n,) class indices, -1 where unknown, or float32 (n, classes) multi-hot.
        classes: How many classes there are.
        fetch: Fetches a raw example by its index.
        weights: float32 (n,) weights in the loss, or None.
        columns: More that is known of the examples, str (n,) each.
        files: The file that each example is read from, (n,), where it is read from one.
        targets: What each of several heads is to say, by name; none where the labels say it.
    """

    name: str
    ids: Sequence[str]
    labels: np.ndarray
    classes: int
    fetch: Fetch
    weights: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Sequence[str] | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)

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
            targets={name: target.of(chosen) for name, target in self.targets.items()},
        )

    @property
    def counts(self) -> np.ndarray:
        """How many examples each class has, int64 (classes,)."""
        if self.labels.ndim == 1:
            return np.bincount(self.labels[self.labels >= 0], minlength=self.classes)
        return np.count_nonzero(self.labels, axis=0)

    def make_target(self) -> Callable[[tf.Tensor], Any]:
        """Returns int64 index (...) -> labels float32 (..., classes): one-hot, or multi-hot.

        Where there are several heads, it returns a dict with what each is to say.

        The class indices are kept, 4 bytes an example, and one-hot vectors are made as they are
        needed: of a thousand classes they would take 4,000 bytes.
        """
        if self.targets:
            each = {name: target.make_target() for name, target in self.targets.items()}
            return lambda index: {name: make(index) for name, make in each.items()}
        if self.labels.ndim == 1:
            numbers = tf.constant(self.labels, tf.int32)  # (n,)
            return lambda index: tf.one_hot(tf.gather(numbers, index), self.classes)
        hot = tf.constant(self.labels.astype(bool))  # (n, classes)
        return lambda index: tf.cast(tf.gather(hot, index), tf.float32)


@dataclass(frozen=True)
class ImageData:
    """A data set that is ready to train on.

    Args:
        source: The name of its source.
        class_names: The classes, in the order of the logits.
        multi_label: Whether an example may have any number of labels.
        splits: Always "train"; "val" and "test" where they exist.
        bad_files: What was left out.
        notes: Sentences for the user.
        heads: What a model of several outputs is to answer; none where the labels say it.
    """

    source: str
    class_names: tuple[str, ...]
    multi_label: bool
    splits: dict[str, Split]
    bad_files: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()
    heads: tuple[Head, ...] = ()
