"""Which example stands at which position of an epoch, and how much it weighs.

An order is a function of (position, epoch): nothing is shuffled in a buffer, nothing remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Split

Number: TypeAlias = "int | tf.Variable"
IndexOf = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(positions int64 () or (b,), epoch int64 ()) -> indices of the same shape."""


@dataclass(frozen=True)
class Order:
    """The examples of an epoch, in which order, and in which version.

    What may be a variable is read when iteration begins, so that one data set serves all epochs of
    one `fit`.

    Args:
        seed: Decides all that is random, together with the epoch and an example's position.
        shuffle: Whether the examples come in a random order; without it, in their own.
        balance: "none", "class_weights" (weights that are yielded with the batch), or "sampling",
            which draws each class equally often.
        epoch: Which pass over the data this is.
        start: How many examples of the epoch to leave out, because they were trained on already.
        view: Which of several views of an example is wanted: an index.
        length: Examples per epoch, from the end of the epoch before; None: all.
    """

    seed: int = 0
    shuffle: bool = False
    balance: str = "none"
    epoch: Number = 0
    start: Number = 0
    view: Number = 0
    length: int | None = None

    def index_of(self, split: Split) -> IndexOf:
        """Returns which example stands at a position of an epoch."""
        if not self.shuffle:
            return lambda position, epoch: position
        count = len(split)
        if self.balance == "sampling":
            order = balanced(split, self.seed)
        else:
            order = shuffled(count, self.seed)
        return order if self.length is None else endless(order, count, self.length)


IN_ORDER = Order()


def shuffled(count: int, seed: int) -> IndexOf:
    """Returns (position, epoch) -> index: a permutation for each epoch."""

    def index(position: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(position, key, tf.constant(count - 1, tf.int64))

    return index


def balanced(split: Split, seed: int) -> IndexOf:
    """Returns (position, epoch) -> index that draws each class equally often.

    An epoch is as long as without balancing. Within a class nothing comes again before all have
    come, also across epochs. With several labels an example, each label is drawn equally often,
    and examples without any label count as one more.
    """
    by_class, counts = _grouped(split)
    members = tf.constant(by_class, tf.int64)
    sizes = tf.constant(counts, tf.int64)
    starts = tf.cumsum(sizes, exclusive=True)
    kinds, count = len(counts), len(split)
    turns = -(-count // kinds)  # draws from a class in an epoch
    shuffle = shuffled(count, seed)

    def index(position: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        if position.shape.rank:  # each class has a key of its own, and `fold_in` takes one
            return tf.map_fn(lambda one: index(one, epoch), position)
        drawn = shuffle(position, epoch)  # so that classes alternate at random
        group, turn = drawn % kinds, drawn // kinds + epoch * turns
        size = sizes[group]
        key = tf.random.fold_in(tf.stack([tf.constant(seed, tf.int64), group + 1]), turn // size)
        offset = tf.random.experimental.index_shuffle(turn % size, key, size - 1)
        return members[starts[group] + offset]

    return index


def endless(order: IndexOf, count: int, length: int) -> IndexOf:
    """Returns an order for epochs of another length: each continues after the one before.

    Args:
        order: Of `count` examples.
        count: How many there are.
        length: Examples per epoch; it may be more than there are.
    """

    def index(position: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        passed = epoch * length + position
        return order(passed % count, passed // count)

    return index


def _grouped(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the examples by class, one class after the other, and their counts.

    An example stands with each of its labels; those without any come last, and those of an unknown
    class are left out. So are empty classes.
    """
    if split.labels.ndim == 1:
        members = np.argsort(split.labels, kind="stable")
        return members[split.labels[members] >= 0], split.counts[split.counts > 0]
    unlabelled = (split.labels.sum(axis=1) == 0)[:, np.newaxis]  # (n, 1)
    groups = [np.flatnonzero(column) for column in np.hstack([split.labels, unlabelled]).T]
    groups = [members for members in groups if len(members)]
    return np.concatenate(groups), np.array([len(group) for group in groups])


def make_weight(split: Split, balance: str) -> Callable[[tf.Tensor], Any] | None:
    """Returns int64 index (...) -> weights in the loss, float32 (...); None if all are equal.

    Of several outputs, it returns a dict with the weights for each.
    """
    weights = example_weights(split, balance)
    if len(split.answers) > 1:
        every = np.ones(len(split), np.float32) if weights is None else weights
        by_output = {
            name: tf.constant(every if answers.weights is None else answers.weights * every)
            for name, answers in split.answers.items()
        }
        return lambda index: {name: tf.gather(each, index) for name, each in by_output.items()}
    own = [a.weights for a in split.answers.values() if a.weights is not None]
    [only] = [o if weights is None else o * weights for o in own] or [weights]
    return None if only is None else lambda index: tf.gather(only, index)


def example_weights(split: Split, balance: str) -> np.ndarray | None:
    """Returns the weight of each example in the loss, float32 (n,), or None if all are alike.

    Args:
        split: The examples, perhaps with weights of their own.
        balance: "class_weights" multiplies by the inverse frequency of the label (the mean over an
            example's labels), scaled to a mean of 1; other values do nothing.
    """
    if balance != "class_weights":
        return split.weights
    inverse = (1.0 / np.maximum(split.counts, 1)).astype(np.float32)  # (classes,)
    if split.labels.ndim == 1:
        weights, without = inverse[split.labels], split.labels < 0  # (n,)
    else:
        labels = split.labels.sum(axis=1)  # (n,)
        weights, without = split.labels @ inverse / np.maximum(labels, 1.0), labels == 0
    if without.any():
        weights[without] = weights[~without].mean()
    weights /= weights.mean()
    if split.weights is not None:
        weights = weights * split.weights
    return weights.astype(np.float32)
