"""Pictures with their texts: two inputs, each read by its own kind, and which text comes when."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.data.feed import Feed
from ftkeras.data.order import IN_ORDER, Order
from ftkeras.data.pipeline import At, Examples, batches, plain
from ftkeras.data.share import WHOLE, Share
from ftkeras.inputs.base import Input, Tree, Verdict, View, Wire


@dataclass(frozen=True)
class Pair(Input):
    """A picture and a text: the model takes both, by the names that each kind gives.

    Args:
        picture: What pictures are.
        text: What texts are.
    """

    picture: Input
    text: Input

    def __post_init__(self) -> None:
        own = {name: getattr(self.picture, name) for name in ("kind", "noun", "files", "smaller")}
        golden = {n: home for n, home in self.picture.abilities.items() if n == "golden"}
        own |= {"pad": {**self.picture.pad, **self.text.pad}, "abilities": golden}
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def sides(self) -> dict[str, Input]:
        """Both by the names of their towers."""
        return {side.nouns: side for side in (self.picture, self.text)}

    @property
    def nouns(self) -> str:
        return self.picture.nouns

    @property
    def takes(self) -> Mapping[str, tf.TensorSpec]:
        return {**self.picture.takes, **self.text.takes}

    @property
    def raw(self) -> tf.TensorSpec:
        """That of the picture."""
        return self.picture.raw

    @property
    def sizes(self) -> Sequence[int]:
        return self.text.sizes

    @property
    def views(self) -> Sequence[str]:
        return self.picture.views

    @property
    def training_view(self) -> str:
        return self.picture.training_view

    @property
    def wire(self) -> Wire:
        return self.picture.wire

    @property
    def serving_packages(self) -> Sequence[str]:
        return (*self.picture.serving_packages, *self.text.serving_packages)

    @property
    def resources(self) -> Sequence[Any]:
        return (*self.picture.resources, *self.text.resources)

    @property
    def notes(self) -> Sequence[str]:
        ours = (note.replace("data.input", "alignment.input") for note in self.text.notes)
        return (*self.picture.notes, *ours)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self.picture.facts, **self.text.facts, "input": self.picture.kind}

    @property
    def title(self) -> str:
        return f"{self.picture.title}, and texts {self.text.title}"

    def recipe(self, view: str = "none") -> str:
        return f"{self.picture.recipe(view)}; {self.text.recipe()}"

    def fresh(self, view: str | None) -> Sequence[str]:
        """The pictures alone are augmented: what is frozen of texts stays the same."""
        return tuple(self.picture.takes) if view else ()

    def accepts(self, name: str) -> bool:
        return self.picture.accepts(name)

    def check(self, raw: bytes, name: str, key: str) -> Verdict:
        return self.picture.check(raw, name, key)

    def decode(self, raw: tf.Tensor, view: View) -> Tree:
        """Returns what is kept of the picture."""
        return self.picture.decode(raw, view)

    def prepare(self, kept: Tree, view: View, key: tf.Tensor) -> Tree:
        """Returns what the model takes of the picture."""
        return self.picture.prepare(kept, view, key)


def by_name(side: Input, tree: Tree) -> dict[str, tf.Tensor]:
    """Returns what a model takes of one side, by name."""
    if isinstance(tree, dict):
        return tree
    [name] = side.takes
    return {name: tree}


@dataclass(frozen=True)
class PairSplit(Split):
    """Pictures, each with one text or more.

    Args:
        texts: All texts of the pictures, in their order.
        numbers: Equal texts have one number, int64 (texts,).
        starts: For each picture and column of texts, its first text, int64 (n, columns).
        lengths: How many there are, int64 (n, columns): 1 or more, for what a column lacks is taken
            from another.
        queries: The texts that retrieval is measured with, bool (texts,).
        owners: The picture of each text, int64 (texts,).
    """

    texts: Split = None  # type: ignore[assignment]
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int64))
    queries: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    owners: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def pictures(self) -> Split:
        """The pictures alone."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(Split)}
        return Split(**fields)

    @property
    def own_numbers(self) -> np.ndarray:
        """The numbers of each picture's texts, int64 (n, most), filled up with -1."""
        most = int(np.bincount(self.owners, minlength=len(self)).max())
        table = np.full((len(self), most), -1, np.int64)
        first = np.searchsorted(self.owners, self.owners)
        table[self.owners, np.arange(len(self.owners)) - first] = self.numbers
        return table

    @property
    def shares(self) -> np.ndarray:
        """How often training takes each text, among those of its picture, float (texts,)."""
        changes = np.zeros(len(self.owners) + 1)
        each = 1 / (self.lengths.shape[1] * self.lengths)
        np.add.at(changes, self.starts, each)
        np.add.at(changes, self.starts + self.lengths, -each)
        return changes.cumsum()[:-1]

    def side(self, place: int) -> Split:
        """Returns the pictures (0) or the texts (1)."""
        return self.texts if place else self.pictures


class Turns:
    """Which text of a picture stands beside it: a function of (seed, epoch, picture).

    The columns of texts take turns by epoch, each picture beginning with one of them, and within a
    column a picture's texts: each comes once before any comes again.

    Args:
        split: The pictures.
        seed: Decides where each picture begins.
        turns: Whether they take turns; otherwise the first one is taken always.
    """

    def __init__(self, split: PairSplit, seed: int, *, turns: bool):
        self._turns = turns
        draws = np.random.default_rng([seed, 7]).integers(0, 1 << 30, split.lengths.shape)
        with tf.device("CPU:0"):
            self._starts, self._counts, self._draws, self._own, self._numbers = (
                tf.constant(array, tf.int64)
                for array in (
                    split.starts, split.lengths, draws, split.own_numbers, split.numbers
                )
            )  # fmt: skip

    def chosen(self, index: tf.Tensor, at: At) -> tf.Tensor:
        """Returns the texts of some pictures, int64 () or (b,)."""
        if not self._turns:
            return tf.gather(self._starts[:, 0], index)
        columns = self._starts.shape[1]
        epoch, first = tf.cast(at.epoch, tf.int64), tf.gather(self._draws[:, 0], index)
        # Each batch has texts of all columns: otherwise the loss would rise and fall with epochs.
        place = tf.stack([index, (epoch + first) % columns], axis=-1)
        starts, counts, draws = (
            tf.gather_nd(table, place) for table in (self._starts, self._counts, self._draws)
        )
        return starts + (draws // columns + epoch // columns) % counts

    def target(self, index: tf.Tensor, at: At) -> tf.Tensor:
        """Returns the number of the text, then those of all texts of the picture, float32."""
        number = tf.gather(self._numbers, self.chosen(index, at))[..., tf.newaxis]
        return tf.cast(tf.concat([number, tf.gather(self._own, index)], axis=-1), tf.float32)


class PairExamples:
    """Reads raw pictures and texts, each through its own input.

    Args:
        split: The pictures with their texts.
        pair: What both are.
        turns: Which text it is.
        views: Which views of pictures may be asked for.
        cache: See `Examples`.
    """

    by_batch = False
    part = WHOLE

    def __init__(
        self,
        split: PairSplit,
        pair: Pair,
        turns: Turns,
        views: Sequence[str] = ("none",),
        cache: str = "none",
    ):
        self.pad, self.sizes, self.target = pair.pad, pair.sizes, turns.target
        self._pair, self._turns = pair, turns
        self._pictures = Examples(split.pictures, pair.picture, views, cache)
        self._texts = Examples(split.texts, pair.text, cache=cache)

    def __call__(self, index: tf.Tensor, at: At) -> dict[str, tf.Tensor]:
        """Returns what the model takes of a picture and of one of its texts."""
        picture = by_name(self._pair.picture, self._pictures(index, at))
        text = by_name(self._pair.text, self._texts(self._turns.chosen(index, at), at))
        return {**picture, **text}


@dataclass(frozen=True)
class PairFeed(Feed):
    """A feed of pictures with their texts; training takes the texts of a picture in turns."""

    def turns(self, split: str, *, training: bool) -> Turns:
        """Returns which text stands beside each picture of a split."""
        examples = self.data.splits[split]
        assert isinstance(examples, PairSplit)
        return Turns(examples, self.seed, turns=training)

    def views(self, count: int, view: str | None) -> tuple[tf.data.Dataset, str]:
        """Returns examples as they are: what views make new is never stored."""
        return self.plain("train"), self.input.recipe()

    def encoded(self, split: str, place: int) -> tf.data.Dataset:
        """Returns all pictures (0) or all texts (1) of a split, in order."""
        examples = self.data.splits[split]
        assert isinstance(examples, PairSplit) and isinstance(self.input, Pair)
        side = (self.input.picture, self.input.text)[place]
        return plain(examples.side(place), side, self.batch_size)

    def _training(self, split: str, order: Order, **options: Any) -> tf.data.Dataset:
        views = self.input.views if self.varies else [self.view]
        read = self._read(split, views, self.cache, training=True)
        options = {"share": self.share, **options}
        return batches(self.data.splits[split], read, self.batch_size, order, **options)

    def _batches(self, split: str, cache: str, **options: Any) -> tf.data.Dataset:
        read = self._read(split, ["none"], cache, training=False)
        share: Share = options.pop("share", WHOLE)
        examples = self.data.splits[split]
        return batches(examples, read, self.batch_size, IN_ORDER, share=share, **options)

    def _read(
        self, split: str, views: Sequence[str], cache: str, *, training: bool
    ) -> PairExamples:
        examples = self.data.splits[split]
        assert isinstance(examples, PairSplit) and isinstance(self.input, Pair)
        turns = self.turns(split, training=training)
        return PairExamples(examples, self.input, turns, views, cache)
