"""The batches of a run, and where in the data it stands."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.data.broken import find_broken
from ftkeras.data.dataset import Data
from ftkeras.data.order import IN_ORDER, Order
from ftkeras.data.pipeline import Examples, batches
from ftkeras.data.share import WHOLE, Share
from ftkeras.errors import UserError
from ftkeras.inputs.base import Input


def _counter() -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False)


@dataclass(frozen=True)
class Feed:
    """Makes the batches for training and for measuring from the same settings.

    Args:
        data: The data set.
        input: What its examples are.
        batch_size: Examples per batch, over all devices.
        seed: Decides all that is random.
        cache: "auto", "memory" or "none"; see `Examples`.
        view: The view of an example that training begins with, one of `input.views`.
        varies: Whether `set_view` will be called during training.
        balance: "none", "class_weights" or "sampling"; see `Order`.
        epoch: Which epoch the training batches are of; assign it before each.
        start: How many examples of that epoch to leave out, because they were trained on already.
        share: This worker's part of each batch that `fit` gets, and for how many replicas it is.
        full: Whether `fit` gets full batches alone, for devices that want shapes to stay the same.
        complete: Why it trains on full batches alone; empty: it does not. See `runs.padding`.
        answers: Returns what a model puts out for a whole split if that is known without running
            all of it, otherwise None. It takes the model, the split's name, and what to say
            meanwhile.
    """

    data: Data
    input: Input
    batch_size: int
    seed: int = 0
    cache: str = "auto"
    view: str = "none"
    varies: bool = False
    balance: str = "none"
    epoch: tf.Variable = field(default_factory=_counter)
    start: tf.Variable = field(default_factory=_counter)
    share: Share = WHOLE
    full: bool = False
    complete: str = ""
    answers: Callable[[Any, str, str], Any] | None = None
    _view_index: tf.Variable = field(default_factory=_counter)
    _plain: dict[str, tf.data.Dataset] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        wanting = ("train", "val") if self.full else ("train",) if self.complete else ()
        small = [name for name in wanting if len(self.data.splits.get(name, ())) > 0]
        small = [name for name in small if len(self.data.splits[name]) < self.batch_size]
        if small:
            why = "this device wants full batches"
            if not self.full:
                why = f"batches have to be full because {self.complete}"
            raise UserError(
                f"data.batch_size: {self.batch_size} is more than the {self.input.nouns} of "
                f"{small[0]} ({len(self.data.splits[small[0]])}), and {why}."
            )
        self.set_view(None)

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch of training has."""
        count = len(self.data.splits["train"])
        return count // self.batch_size if self.drops else -(-count // self.batch_size)

    @property
    def drops(self) -> bool:
        """Whether an epoch of training leaves out the last batch if it is not full."""
        return self.full or bool(self.complete)

    def set_view(self, name: str | None) -> None:
        """Sets the view for the epochs that begin from now on; None is the first one."""
        self._view_index.assign(list(self.input.views).index(name or self.view))

    @property
    def order(self) -> Order:
        """Which training examples come, and when."""
        return Order(
            seed=self.seed,
            shuffle=True,
            balance=self.balance,
            epoch=self.epoch,
            start=self.start,
            view=self._view_index,
        )

    def train(self) -> tf.data.Dataset:
        """Returns the training batches: shuffled, augmented, mixed."""
        return self._training("train", self.order, drop_remainder=self.drops)

    def name_examples(self, epoch: int, batch: int) -> str:
        """Returns the ids of the first few examples of an epoch's batch, counted from 0."""
        indices = self.indices(epoch, batch)
        ids = [self.data.splits["train"].ids[index] for index in indices[:3]]
        return ", ".join(map(str, ids)) + (f" and {len(indices) - 3} more" if indices[3:] else "")

    def indices(self, epoch: int, batch: int) -> list[int]:
        """Returns which training examples are in an epoch's batch, counted from 0."""
        split = self.data.splits["train"]
        first, end = batch * self.batch_size, min((batch + 1) * self.batch_size, len(split))
        places = tf.range(first, end, dtype=tf.int64)
        indices = self.order.index_of(split)(places, tf.constant(epoch, tf.int64))
        return [int(index) for index in indices]

    @property
    def is_plain(self) -> bool:
        """Whether training gets the examples as they are, neither augmented nor mixed."""
        return not (self.input.mixes or self.varies or self.view != "none")

    def validation(self) -> tf.data.Dataset | None:
        """Returns what `fit` measures on, or None if there is no such split."""
        if "val" not in self.data.splits:
            return None
        return self._batches("val", self.cache, share=self.share, drop_remainder=self.full)

    def plain(self, split: str) -> tf.data.Dataset:
        """Returns a split's batches as they are: in order, whole, the same every time.

        Few read them more than once, so decoded examples are not kept.
        """
        if split not in self._plain:  # made once: tracing takes half a second
            self._plain[split] = self._batches(split, "none")
        return self._plain[split]

    def find_broken(self, step: int) -> tuple[str, Exception] | None:
        """Looks for an example that cannot be read any more; returns its id and the error.

        Args:
            step: How many steps were trained: those that came next are looked at first.
        """
        train, epoch = self.data.splits["train"], tf.identity(self.epoch)
        order = self.order.index_of(train)
        first = step % self.steps_per_epoch * self.batch_size
        broken = find_broken(train, self.input, first, lambda position: order(position, epoch))
        others = (split for split in self.data.splits.values() if split is not train)
        found = (find_broken(split, self.input) for split in others)
        return broken or next(filter(None, found), None)

    def views(self, count: int, view: str | None) -> tuple[tf.data.Dataset, str]:
        """Returns augmented training examples to keep: all of one version, then all of the next.

        Args:
            count: How many versions.
            view: The view that all are of; None is the first that training takes.

        Returns:
            Batches like those of `train`, in the order of the split, and a text that differs if
            any number could.
        """
        view, train = view or self.view, self.data.splits["train"]
        read = Examples(train, self.input, [view])
        each = [
            batches(train, read, self.batch_size, Order(self.seed, epoch=number))
            for number in range(count)
        ]
        recipe = f"{self.input.recipe(view)}; {count} views of seed {self.seed}"
        return functools.reduce(tf.data.Dataset.concatenate, each), recipe

    def own(self) -> Feed:
        """Returns a feed of this worker's share of the examples themselves, every count-th one."""
        splits = {
            name: split.take(np.arange(self.share.index, len(split), self.share.count))
            for name, split in self.data.splits.items()
        }
        data = dataclasses.replace(self.data, splits=splits)
        return dataclasses.replace(self, data=data, share=WHOLE, full=False, complete="")

    def _training(self, split: str, order: Order, **options: Any) -> tf.data.Dataset:
        """Returns the batches of the epoch at hand that are left."""
        examples = self.data.splits[split]
        views = self.input.views if self.varies else [self.view]
        read = Examples(examples, self.input, views, self.cache)
        mix = self.input.mix if self.input.mixes else None
        options = {"share": self.share, "mix": mix, **options}
        return batches(examples, read, self.batch_size, order, **options)

    def _batches(self, split: str, cache: str, **options: Any) -> tf.data.Dataset:
        """Returns a split's batches as they are."""
        examples = self.data.splits[split]
        read = Examples(examples, self.input, cache=cache)
        return batches(examples, read, self.batch_size, IN_ORDER, **options)
