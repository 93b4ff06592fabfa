"""Batches in which each labelled example stands beside one of another domain, without its label."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ftkeras.data.feed import Feed
from ftkeras.data.share import WHOLE, as_long_as, take_share
from ftkeras.errors import UserError

Batch = tuple[tf.Tensor, ...]

TARGET = "target_"
"""How the names of the other domain's splits begin: target_train, target_val, target_test."""


@dataclass(frozen=True)
class PairedFeed(Feed):
    """A feed of two domains: `data` has the splits of both.

    Training batches take turns: a labelled example, then one of the target. The target's come in an
    order of their own, all of them before any comes again, whatever the epochs of the source.
    They are always full: of a few examples, the statistics of a domain say little. What is left
    over of the source comes in other epochs. Validation batches are the source's, then the
    target's.

    Rows of the target have labels of zeros and weigh nothing. So losses and metrics that know of no
    domains are the source's alone. Rows of the source weigh more in return, so that a mean over all
    rows is the mean over the source.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.input.takes) > 1:
            raise UserError(
                f"task domain_adaptation: {self.input.nouns} cannot be paired; what can is one "
                "array. Take the method none or adabn."
            )
        if not self.steps_per_epoch:
            raise UserError(
                f"data.batch_size: {self.batch_size} is more than the {self.input.nouns} of train "
                f"({len(self.data.splits['train'])}), and batches of two domains are always full."
            )

    @property
    def steps_per_epoch(self) -> int:
        """How many full batches the source has."""
        return len(self.data.splits["train"]) // self.batch_size

    def train(self) -> tf.data.Dataset:
        """Returns batches of twice the size: inputs, labels and weights."""
        whole: dict[str, Any] = {"drop_remainder": True, "share": WHOLE}
        source = self._training("train", self.order, **whole)
        length = self.steps_per_epoch * self.batch_size
        order = dataclasses.replace(self.order, seed=self.seed + 1, balance="none", length=length)
        target = self._training(f"{TARGET}train", order, **whole, mix=None)
        paired = tf.data.Dataset.zip(source, target).map(self._in_turns, tf.data.AUTOTUNE)
        return take_share(as_long_as(paired, int(source.cardinality())), self.share)

    def validation(self) -> tf.data.Dataset | None:
        """Returns what `fit` measures on, or None if the source has no such split."""
        if "val" not in self.data.splits:
            return None
        name = self.split_for("val")
        source, target = (
            self._batches(one, self.cache, drop_remainder=self.full) for one in ("val", name)
        )
        source_size, theirs = len(self.data.splits["val"]), len(self.data.splits[name])
        factor = (source_size + theirs) / source_size
        both = source.map(lambda *batch: _weighed(batch, factor)).concatenate(
            target.map(lambda *batch: _weighed(_without_labels(batch[:2]), 0.0))
        )
        both = as_long_as(both, int(source.cardinality()) + int(target.cardinality()))
        return take_share(both, self.share)

    def _in_turns(self, source: Batch, target: Batch) -> Batch:
        """Returns the rows of two batches in turns; the shorter examples are padded."""
        [(name, spec)] = self.input.takes.items()
        first, *others = source
        second, *theirs = target
        if not spec.shape.is_fully_defined():
            first, second = _alike(first, second, self.input.pad.get(name, 0))
        return _in_turns((first, *others), (second, *theirs))

    def split_for(self, purpose: str) -> str:
        """Returns the target's split for "val" or "test", or what comes nearest."""
        names = [f"{TARGET}{name}" for name in (purpose, "val", "train")]
        return next(name for name in names if name in self.data.splits)


def _weighed(batch: Batch, factor: float) -> Batch:
    inputs, labels, *weights = batch
    own = weights[0] if weights else tf.ones(tf.shape(labels)[:1])
    return inputs, labels, own * factor


def _without_labels(batch: Batch) -> Batch:
    return batch[0], tf.zeros_like(batch[1])


def _alike(first: tf.Tensor, second: tf.Tensor, pad: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns two batches in the larger of their sizes, filled up with `pad`."""
    size = tf.maximum(tf.shape(first), tf.shape(second))

    def filled(x: tf.Tensor) -> tf.Tensor:
        missing = size - tf.shape(x)
        paddings = tf.stack([tf.zeros_like(missing), missing], axis=1)
        shape = [None, *x.shape[1:]]
        return tf.ensure_shape(tf.pad(x, paddings, constant_values=tf.cast(pad, x.dtype)), shape)

    return filled(first), filled(second)


def _in_turns(source: Batch, target: Batch) -> Batch:
    rows = zip(
        _weighed(source, 2.0), _weighed(_without_labels(target[:2]), 0.0), strict=True
    )  # fmt: skip
    # (b, ...) and (b, ...) -> (b, 2, ...) -> (2b, ...)
    return tuple(
        tf.reshape(tf.stack(pair, axis=1), tf.concat([[-1], tf.shape(pair[0])[1:]], axis=0))
        for pair in rows
    )
