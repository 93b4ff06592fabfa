"""Divides training into calls of `fit`: one for all phases, or one per phase with a store."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from ftkeras.data.feed import Feed
from ftkeras.data.pipeline import batches
from ftkeras.data.share import WHOLE, Share
from ftkeras.phases.phase import Phase
from ftkeras.training.resume.phases import ResumableUnfreezing
from ftkeras.trunk.extract import plain_part
from ftkeras.trunk.plan import TrunkPlan, stores_share, training_work, view_of, views_of
from ftkeras.trunk.split import is_alike
from ftkeras.trunk.store import FrontierStore

_FORWARD = 4  # batches at once in validation

Batches = tuple[tf.data.Dataset, "tf.data.Dataset | None"]


@dataclass(frozen=True)
class Segment:
    """Some epochs or a part of one, with the model to fit and its batches.

    Args:
        model: The whole model; or its tail, if the batches are of a stored frontier.
        batches: For training, and for validation if there is any.
        first_epoch: The first epoch.
        end_epoch: It ends at the beginning of this epoch at the latest.
        work: The work of a training step in the unit of `trunk.cost`, if it trains from a store.
        held_out: Returns the validation examples as the model takes them, each once and in order.
            Returns None if there are none, or if this worker has stored only its share.
    """

    model: keras.Model
    batches: Batches
    first_epoch: int
    end_epoch: int
    work: float = math.inf
    held_out: Callable[[], tf.data.Dataset] | None = None


def segments(
    model: keras.Model,
    feed: Feed,
    unfreeze: ResumableUnfreezing,
    trunk: TrunkPlan | None,
) -> Iterator[Segment]:
    """Yields the segments for `fit` in order, from the position of `unfreeze`.

    Args:
        model: The compiled model; its flags may be set.
        feed: The data.
        unfreeze: The phases.
        trunk: Which phases train from a store; None for a single segment over all phases.
    """
    if trunk is None or not any(forecast.stored for forecast in trunk.forecasts):
        yield _whole(model, feed, unfreeze)
        return
    unfreeze.one_fit_a_phase = True
    index = tail = parted = None
    while index != len(unfreeze.phases) - 1:
        index = unfreeze.upcoming()
        phase, split = unfreeze.phases[index], trunk.splits[index]
        stored = held_out = None
        if trunk.forecasts[index].stored and split is not None:
            stores = stores_of(model, feed, unfreeze, trunk, index)
            part = _part(model, feed, phase)
            if stores is not None:
                stored, held_out = _stored(stores, feed, part), _held_out(stores, feed, part)
        if stored is None or split is None:
            yield _whole(model, feed, unfreeze)
            continue
        epochs = unfreeze.position[0], unfreeze.epochs
        if tail is None or parted is None or not is_alike(split, parted):  # otherwise it is traced
            with model.distribute_strategy.scope():
                tail, parted = trunk.make_tail(split.tail.graph), split
        yield Segment(tail, stored, *epochs, feed.batch_size * training_work(split), held_out)


def stores_of(
    model: keras.Model,
    feed: Feed,
    unfreeze: ResumableUnfreezing,
    trunk: TrunkPlan,
    index: int,
    names: Sequence[str] = ("train", "val"),
) -> dict[str, FrontierStore] | None:
    """Returns the stores of a phase's trunk by split, or None if they could not be made.

    Those that were made before the first phase begins are handed over: the phase holds them then.
    """
    if index == 0 and trunk.first_stores is not None:
        stores, trunk.first_stores = trunk.first_stores, None
        return stores
    start, phase, split = time.monotonic(), unfreeze.phases[index], trunk.splits[index]
    assert split is not None
    options = trunk.options
    part = _part(model, feed, phase)
    local = feed.own() if part.count > 1 else feed
    parts = {name: plain_part(local, name) for name in names if name in local.data.splits}
    if view_of(phase, feed):
        views = views_of(phase, feed, options)
        examples, recipe = feed.views(views, phase.augmentation)
        parts["train"] = dataclasses.replace(
            parts["train"], inputs=lambda: examples, recipe=recipe, views=views
        )
    found = trunk.get_stores(
        split,
        list(parts.values()),
        options,
        ahead=trunk.ahead(index),
        batch_size=feed.batch_size,
        # Each worker runs it separately: one may find it stored, another not.
        strategy=model.distribute_strategy if feed.share.count == 1 else None,
    )
    trunk.seconds[phase.name] = time.monotonic() - start
    return None if found is None else dict(zip(parts, found, strict=True))


def _part(model: keras.Model, feed: Feed, phase: Phase) -> Share:
    return feed.share if stores_share(model, feed, phase) else WHOLE


def _whole(model: keras.Model, feed: Feed, unfreeze: ResumableUnfreezing) -> Segment:
    """Returns a segment of the whole model, up to the end."""
    train, val = feed.train(), feed.validation()
    as_it_is = val is not None and feed.share == WHOLE and not feed.full
    return Segment(
        model,
        (train, val),
        unfreeze.position[0],
        unfreeze.epochs,
        held_out=(lambda: val) if as_it_is else lambda: feed.plain("val"),
    )


def _stored(stores: dict[str, FrontierStore], feed: Feed, part: Share) -> Batches:
    splits = feed.data.splits
    train = batches(
        splits["train"],
        stores["train"].read(splits["train"], part, feed.input.sizes),
        feed.batch_size,
        feed.order,
        mix=feed.input.mix if feed.input.mixes else None,
        drop_remainder=feed.drops,
        share=feed.share,
    )
    val = None
    if "val" in stores:
        # Larger batches are faster, and fit without a backward pass. But devices that need fixed
        # shapes leave out an incomplete one.
        val = batches(
            splits["val"],
            stores["val"].read(splits["val"], part, feed.input.sizes),
            feed.batch_size * (1 if feed.full else _FORWARD),
            drop_remainder=feed.full,
            share=feed.share,
        )
    return train, val


def _held_out(
    stores: dict[str, FrontierStore], feed: Feed, part: Share
) -> Callable[[], tf.data.Dataset] | None:
    """Returns `Segment.held_out` of a tail."""
    if "val" not in stores or part != WHOLE:
        return None
    split, store = feed.data.splits["val"], stores["val"]
    return lambda: batches(split, store.read(split), feed.batch_size * _FORWARD)
