"""From a split to batches: one function, from top to bottom, whatever the examples are.

Everything random follows from (seed, epoch, position), so a run that is stopped and resumes gets
the examples that it would have got. What reads an example is a `Read`: raw examples through an
`Input`, or the rows of a stored trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.data.order import IN_ORDER, Number, Order, make_weight
from ftkeras.data.preload import keep_in_memory
from ftkeras.data.share import WHOLE, Share, as_long_as, pad, take_share, untuned, with_rows
from ftkeras.inputs.base import Input, Tree, View, ensure_takes

_VIEW, _MIX = 1, 2  # kinds of draws, so that they share no seed
_AHEAD = 2  # batches that wait while the model works on one

Mix = Callable[[tuple[Any, ...], tf.Tensor], tuple[Any, ...]]


class At(NamedTuple):
    """Where an example stands, from which all follows that is random about it.

    Args:
        seed: The run's.
        epoch: int64 scalar.
        position: Its position in the epoch, int64 scalar, or those of several (b,).
        view: Which view is wanted, int32 scalar.
    """

    seed: int
    epoch: tf.Tensor
    position: tf.Tensor
    view: tf.Tensor

    def key(self, kind: int) -> tf.Tensor:
        """Returns the seed of all draws of one kind for one position: int32 (2,)."""
        return tf.random.fold_in(tf.random.fold_in((self.seed, kind), self.epoch), self.position)


class Read(Protocol):
    """What returns the model's inputs of an example by its index.

    If what is read decides the target, too, it has a method `target`, called like itself.
    """

    @property
    def by_batch(self) -> bool:
        """Whether it takes the indices of a batch (b,) at once."""

    @property
    def part(self) -> Share:
        """Which examples it knows: those that this share has stored. See `Share.stored`."""

    @property
    def pad(self) -> Mapping[str, Any]:
        """What fills dimensions that differ within a batch, by the input's name."""

    @property
    def sizes(self) -> Sequence[int]:
        """What such dimensions are rounded up to; see `Input.sizes`."""

    def __call__(self, index: tf.Tensor, at: At) -> Any:
        """Returns a tree, or those of a batch."""


class Examples:
    """Reads raw examples through an `Input`.

    Args:
        split: The examples.
        kind: What they are.
        views: Which views may be asked for; `Order.view` picks one, if there are several.
        cache: "memory" keeps examples decoded in memory; "auto" does if they take a quarter of what
            is free or less; "none" does not.
    """

    by_batch = False
    part = WHOLE

    def __init__(
        self, split: Split, kind: Input, views: Sequence[str] = ("none",), cache: str = "none"
    ):
        self.pad, self.sizes = kind.pad, kind.sizes
        self._split, self._kind, self._views = split, kind, tuple(views)
        self._kept = keep_in_memory(split, kind, View(self._views), cache)

    def __call__(self, index: tf.Tensor, at: At) -> Tree:
        """Returns the model's inputs of one example."""
        view, key = View(self._views, at.view), at.key(_VIEW)
        if self._kept is not None:
            tree = self._kind.prepare(self._kept(index), view, key)
        else:
            tree = self._kind.read(self._split.fetch(index), view, key)
        return ensure_takes(tree, self._kind.takes)


def batches(
    split: Split,
    read: Read,
    batch_size: int,
    order: Order = IN_ORDER,
    *,
    mix: Mix | None = None,
    drop_remainder: bool = False,
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Makes the data set that `fit`, `evaluate` and `predict` iterate over.

    Args:
        split: The examples.
        read: Reads them.
        batch_size: Examples per batch, over all devices.
        order: Which ones come, and when.
        mix: Blends the examples of a batch, given a key, int32 (2,); see `Input.mix`.
        drop_remainder: Whether to leave out the last batch if it is not full.
        share: Which part of each batch is wanted, and for how many replicas batches are padded. If
            it can be, nothing else is read.

    Returns:
        Batches (inputs, labels float32 (b, classes)), with weights float32 (b,) as a third element
        if the split has weights or the order makes them. For several replicas the third element is
        always there, and is `Rows`. Inputs and labels may be dicts.
    """
    count = len(split) if order.length is None else order.length
    # Only what is mixed needs whole batches; what is stored in parts is divided by its index.
    early = share.replicas > 1 and mix is None and read.part == WHOLE

    def grouped(places: tf.data.Dataset) -> tf.data.Dataset:
        if early or read.by_batch:
            places = places.batch(batch_size, drop_remainder=drop_remainder)
        if early:
            places = places.map(lambda batch: share.of(pad(batch, share.replicas)))
        return places.unbatch() if early and not read.by_batch else places

    # Many examples at a time, passed on in order: parallelism must not change what comes out.
    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    data, example = _places(count, order, grouped), _reader(split, read, order)
    finished = _finisher(mix, order.seed)
    if read.by_batch:  # in one function: each takes its time when an epoch begins
        data = data.map(lambda *place: finished(*example(*place)), **parallel)
    else:
        size = -(-batch_size // share.replicas) * share.replicas // share.count
        data = data.map(example, **parallel)
        data = _batched(data, size if early else batch_size, drop_remainder, read)
        data = data.map(finished, **parallel)
    data = untuned(data.prefetch(_AHEAD))
    data = _with_length(data, count, order.start, batch_size, drop_remainder)
    return data if mix is None else take_share(data, share)


def plain(split: Split, kind: Input, batch_size: int) -> tf.data.Dataset:
    """Returns a split's batches as they are: in order, whole, the same every time."""
    return batches(split, Examples(split, kind), batch_size)


def _places(
    count: int, order: Order, grouped: Callable[[tf.data.Dataset], tf.data.Dataset]
) -> tf.data.Dataset:
    """Yields (place, epoch, view) for an epoch, in the order of places.

    Args:
        count: Examples per epoch.
        order: Which epoch this is, and the first place.
        grouped: From the places of all examples to those that are wanted, by the batch or not.
    """

    @tf.autograph.experimental.do_not_convert
    def places(_: tf.Tensor) -> tf.data.Dataset:
        # Variables are read here, when an epoch begins: all that is prefetched is of one epoch.
        # A cast may return a variable as it is, to be read again with each example.
        first, now = (tf.identity(tf.cast(x, tf.int64)) for x in (order.start, order.epoch))
        view = tf.identity(tf.cast(order.view, tf.int32))
        wanted = grouped(tf.data.Dataset.range(first, count))
        return tf.data.Dataset.zip((wanted, _repeated(now), _repeated(view)))

    return tf.data.Dataset.from_tensors(0).flat_map(places)


def _reader(split: Split, read: Read, order: Order) -> Callable[..., Any]:
    """Returns (place, epoch, view) -> (position, epoch, example, rows), by the batch or not."""
    index_of, weigh = order.index_of(split), make_weight(split, order.balance)
    target = getattr(read, "target", None)
    if target is None:
        by_index = split.make_target()
        target = lambda index, at: by_index(index)  # noqa: E731

    @tf.autograph.experimental.do_not_convert
    def example(place: Any, now: tf.Tensor, which: tf.Tensor) -> tuple[Any, ...]:
        position, *rows = place if isinstance(place, tuple) else (place,)
        index = index_of(position, now)
        if read.part != WHOLE:
            index, *rows = read.part.stored(index)
        at = At(order.seed, now, position, which)
        weight = () if weigh is None else (weigh(index),)
        return position, now, (read(index, at), target(index, at), *weight), tuple(rows)

    return example


def _finisher(mix: Mix | None, seed: int) -> Callable[..., Any]:
    """Returns what makes a batch of (positions, epochs, examples, rows)."""

    @tf.autograph.experimental.do_not_convert
    def finished(positions: tf.Tensor, nows: tf.Tensor, batch: Any, rows: Any) -> tuple[Any, ...]:
        if mix is None:
            return with_rows(batch, *rows) if rows else tuple(batch)
        now = nows[0] if nows.shape.rank else nows
        return mix(batch, At(seed, now, positions[0], now).key(_MIX))

    return finished


def _repeated(value: tf.Tensor) -> tf.data.Dataset:
    """Yields a tensor without end, to be zipped with what varies.

    A `map` that adds it would do the same. But TensorFlow prepares each function again when an
    epoch begins, and one within another takes 20 ms.
    """
    return tf.data.Dataset.from_tensors(value).repeat()


def _batched(data: tf.data.Dataset, size: int, drop_remainder: bool, read: Read) -> tf.data.Dataset:
    """Returns batches of (position, epoch, (inputs, ...), rows), padded to the longest input.

    If the input has `sizes`, to the next of these: each length costs a graph.
    """
    _, _, (inputs, *others), rows = data.element_spec
    if all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(inputs)):
        return data.batch(size, drop_remainder=drop_remainder)
    values: Any = None  # which is 0
    if isinstance(inputs, dict):
        filled = {name: tf.constant(x, inputs[name].dtype) for name, x in read.pad.items()}
        values = {name: filled.get(name) for name in inputs}
    each = (None, None, (values, *(None for _ in others)), None if rows else ())
    data = data.padded_batch(size, padding_values=each, drop_remainder=drop_remainder)
    if not read.sizes:
        return data

    def rounded(positions: Any, nows: Any, batch: Any, rows: Any) -> tuple[Any, ...]:
        inputs = tf.nest.map_structure(
            lambda x, spec: _lengthened(x, spec, read.sizes), batch[0], data.element_spec[2][0]
        )
        return positions, nows, (inputs, *batch[1:]), rows

    return data.map(rounded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _lengthened(x: tf.Tensor, spec: tf.TensorSpec, sizes: Sequence[int]) -> tf.Tensor:
    """Pads the second dimension of a tensor with 0, if it varies, to the next of some sizes."""
    if spec.shape.rank < 2 or spec.shape[1] is not None:
        return x
    length = tf.shape(x)[1]
    at = tf.searchsorted(tf.constant(sizes, tf.int32), [length])[0]
    wanted = tf.constant([*sizes, 0], tf.int32)[at]
    missing = tf.maximum(wanted - length, 0)
    return tf.pad(x, [[0, 0], [0, missing], *[[0, 0]] * (spec.shape.rank - 2)])


def _with_length(
    data: tf.data.Dataset, count: int, start: Number, batch_size: int, drop_remainder: bool
) -> tf.data.Dataset:
    """Tells `fit` how many batches an epoch has, which a flat_map hides."""
    varies = isinstance(start, tf.Variable)
    left = count if varies else count - start
    length = left // batch_size if drop_remainder else -(-left // batch_size)
    if varies:
        # An asserted length may not be undercut, and the first epoch of a resumed run must be
        # shorter. Without a length `fit` would cut all epochs to that of the first.
        return as_long_as(data, length)
    return data.apply(tf.data.experimental.assert_cardinality(length))
