"""The batches of a run, and where in the data it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.data.augment import STRENGTHS
from ftkeras.data.augment_layers import LayersAugment
from ftkeras.data.broken import find_broken
from ftkeras.data.dataset import ImageData
from ftkeras.data.order import order_of
from ftkeras.data.pipeline import batches
from ftkeras.data.share import WHOLE, Share
from ftkeras.errors import UserError


def _counter() -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False)


@dataclass(frozen=True)
class Feed:
    """Makes the batches for training and for measuring from the same settings.

    Args:
        data: The data set.
        image_size: Side of the images, in pixels.
        batch_size: Examples a batch, over all devices.
        seed: Decides all that is random.
        resize: How images become square: crop, pad or squash.
        cache: "auto", "memory" or "none"; see `batches`.
        strength: The strength of augmentation to begin with.
        varies: Whether `set_strength` will be called while training goes on.
        layers: Augments instead of a strength.
        layers_recipe: A text that differs where the layers do.
        options: More arguments for the training batches: mixup, cutmix, balance.
        epoch: Which epoch the training batches are of; assign it before each.
        start: How many examples of that epoch to leave out, because they were trained on already.
        share: This worker's part of each batch that `fit` gets, and for how many replicas it is.
        full: Whether `fit` gets full batches alone, for devices that want shapes to stay the same.
        complete: Why it trains on full batches alone; empty: it does not. See `runs.padding`.
    """

    data: ImageData
    image_size: int
    batch_size: int
    seed: int = 0
    resize: str = "crop"
    cache: str = "auto"
    strength: str = "none"
    varies: bool = False
    layers: LayersAugment | None = None
    layers_recipe: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    epoch: tf.Variable = field(default_factory=_counter)
    start: tf.Variable = field(default_factory=_counter)
    share: Share = WHOLE
    full: bool = False
    complete: str = ""
    _strength_index: tf.Variable = field(default_factory=_counter)
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
                f"data.batch_size: {self.batch_size} is more than the images of {small[0]} "
                f"({len(self.data.splits[small[0]])}), and {why}."
            )
        self.set_strength(None)

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch of training has."""
        count = len(self.data.splits["train"])
        return count // self.batch_size if self.drops else -(-count // self.batch_size)

    @property
    def drops(self) -> bool:
        """Whether an epoch of training leaves out the last batch if it is not full."""
        return self.full or bool(self.complete)

    def set_strength(self, name: str | None) -> None:
        """Sets the strength for the epochs that begin from now on; None is the first one."""
        self._strength_index.assign(list(STRENGTHS).index(name or self.strength))

    def train(self) -> tf.data.Dataset:
        """Returns the training batches: shuffled, augmented, mixed."""
        return self._training("train", self.seed, drop_remainder=self.drops, **self.options)

    def name_examples(self, epoch: int, batch: int) -> str:
        """Returns the ids of the first few examples of an epoch's batch, counted from 0."""
        indices = self.indices(epoch, batch)
        ids = [self.data.splits["train"].ids[index] for index in indices[:3]]
        return ", ".join(map(str, ids)) + (f" and {len(indices) - 3} more" if indices[3:] else "")

    def indices(self, epoch: int, batch: int) -> list[int]:
        """Returns which training examples are in an epoch's batch, counted from 0."""
        split = self.data.splits["train"]
        order = order_of(split, self.options.get("balance", "none"), self.seed)
        positions = range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(split)))
        now = tf.constant(epoch, tf.int64)
        return [int(order(tf.constant(position, tf.int64), now)) for position in positions]

    @property
    def is_plain(self) -> bool:
        """Whether training sees the images as they are, neither augmented nor mixed."""
        mixes = self.options.get("mixup") or self.options.get("cutmix")
        augments = self.varies or STRENGTHS[self.strength] != STRENGTHS["none"]
        return not (mixes or augments or self.layers is not None)

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know about the batches before training starts."""
        return () if self.layers is None else self.layers.notes

    def validation(self) -> tf.data.Dataset | None:
        """Returns what `fit` measures on, or None where there is no such split."""
        if "val" not in self.data.splits:
            return None
        return self._batches("val", share=self.share, drop_remainder=self.full)

    def plain(self, split: str) -> tf.data.Dataset:
        """Returns a split's batches as they are: in order, whole, the same every time.

        Few read them more than once, so decoded images are not kept.
        """
        if split not in self._plain:  # made once: tracing takes half a second
            self._plain[split] = self._batches(split, cache="none")
        return self._plain[split]

    def find_broken(self, step: int) -> tuple[str, Exception] | None:
        """Looks for an example that cannot be read any more; returns its id and the error.

        Args:
            step: How many steps were trained: those that came next are looked at first.
        """
        train, epoch = self.data.splits["train"], tf.identity(self.epoch)
        order = order_of(train, self.options.get("balance", "none"), self.seed)
        first = step % self.steps_per_epoch * self.batch_size
        broken = find_broken(train, first, lambda position: order(position, epoch))
        others = (split for split in self.data.splits.values() if split is not train)
        return broken or next(filter(None, map(find_broken, others)), None)

    def views(self, count: int, strength: str | None) -> tuple[tf.data.Dataset, str]:
        """Returns augmented training images to keep: all of one view, then all of the next.

        Args:
            count: How many views.
            strength: How strongly they are augmented; None is the first strength.

        Returns:
            Batches like those of `train`, in the order of the split, and a text that differs where
            the pixels could.
        """
        strength = strength or self.strength
        views = [
            self._batches(
                "train",
                training=True,
                shuffle=False,
                seed=self.seed,
                epoch=view,
                strength=strength,
                layers=self.layers,
                cache="none",
            )
            for view in range(count)
        ]
        all_views = views[0]
        for view in views[1:]:
            all_views = all_views.concatenate(view)
        how = self.layers_recipe or f"{strength} {STRENGTHS[strength]}"
        return all_views, f"{self.recipe}; {count} views of seed {self.seed}: {how}"

    def own(self) -> Feed:
        """Returns a feed of this worker's share of the examples themselves, every count-th one."""
        splits = {
            name: split.take(np.arange(self.share.index, len(split), self.share.count))
            for name, split in self.data.splits.items()
        }
        data = dataclasses.replace(self.data, splits=splits)
        return dataclasses.replace(self, data=data, share=WHOLE, full=False, complete="")

    @property
    def recipe(self) -> str:
        """A text that differs where the pixels of `plain` could."""
        return f"{self.image_size} px, {self.resize}"

    def _training(self, split: str, seed: int, **options: Any) -> tf.data.Dataset:
        """Returns the batches of the epoch at hand that are left."""
        return self._batches(
            split,
            training=True,
            seed=seed,
            epoch=self.epoch,
            start=self.start,
            strength=self._strength_index if self.varies else self.strength,
            layers=self.layers,
            **{"share": self.share, **options},
        )

    def _batches(self, split: str, **options: Any) -> tf.data.Dataset:
        return batches(
            self.data.splits[split],
            image_size=self.image_size,
            batch_size=self.batch_size,
            resize=self.resize,
            **{"cache": self.cache, **options},
        )
