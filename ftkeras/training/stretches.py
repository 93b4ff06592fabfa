"""Divides training into calls of `fit`: one for all phases, or one a phase from a stored trunk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import keras
import tensorflow as tf

from ftkeras.data.augment import STRENGTHS
from ftkeras.data.feed import Feed
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.trunk.extract import get_store
from ftkeras.trunk.split import Split, fed_from_frontier, split_model
from ftkeras.trunk.store import FrontierStore

Batches = tuple[tf.data.Dataset, "tf.data.Dataset | None"]


@dataclass(frozen=True)
class TrunkOptions:
    """How the trunk is stored.

    Args:
        precision: "exact", "float32" or "bfloat16"; see `ftkeras.trunk.engines.make_engine`.
        dtype: How numbers are stored.
    """

    precision: str = "exact"
    dtype: str = "float32"


@dataclass(frozen=True)
class Stretch:
    """Some epochs, and the batches that they are trained on while `fed` is entered."""

    first_epoch: int
    end_epoch: int
    fed: AbstractContextManager[Batches]


def stretches(
    model: keras.Model,
    feed: Feed,
    unfreeze: StagedUnfreezing,
    trunk: TrunkOptions | None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Iterator[Stretch]:
    """Yields what to give to `fit`, one after the other.

    Args:
        model: The compiled model; its flags may be set.
        feed: The data.
        unfreeze: The phases.
        trunk: How to store the trunk; None for a single stretch over all phases.
        callbacks: What else `fit` gets.
    """
    reason = "" if trunk is None else _why_not(feed, unfreeze, callbacks)
    if trunk is None or reason:
        if reason:
            print(f"trunk     not stored: {reason}")
        yield Stretch(0, unfreeze.epochs, _plain(feed))
        return
    first = 0
    for index, phase in enumerate(unfreeze.phases):
        unfreeze.set_flags(index)  # the split follows them
        end = first + (phase.epochs or 0)
        split = split_model(model)
        stores = None if split is None else _stores(split, feed, trunk)
        if split is None or stores is None:
            yield Stretch(first, end, _plain(feed))
        else:
            yield Stretch(first, end, _stored(model, split, stores, feed))
        first = end


def _why_not(
    feed: Feed, unfreeze: StagedUnfreezing, callbacks: Sequence[keras.callbacks.Callback]
) -> str:
    """Returns why one `fit` a phase would not do, or why images aren't the same every epoch."""
    if any(isinstance(callback, keras.callbacks.EarlyStopping) for callback in callbacks):
        return "early stopping counts over all phases, so they need one fit"
    strengths = {phase.augmentation or feed.strength for phase in unfreeze.phases}
    if feed.layers is not None or any(STRENGTHS[name] != STRENGTHS["none"] for name in strengths):
        return "augmentation makes each epoch's images new"
    if feed.options.get("mixup") or feed.options.get("cutmix"):
        return "mixing makes each epoch's images new"
    if any(phase.epochs is None for phase in unfreeze.phases):
        return "a phase ends on steps or on a metric"
    if any(phase.batch_norm == "recalibrate" for phase in unfreeze.phases):
        return "a phase recalibrates batch norm"
    return ""


def _stores(split: Split, feed: Feed, trunk: TrunkOptions) -> dict[str, FrontierStore] | None:
    found: dict[str, FrontierStore] = {}
    for name in ("train", "val"):
        if name not in feed.data.splits:
            continue
        store = get_store(
            split,
            feed.data.splits[name],
            image_size=feed.image_size,
            resize=feed.resize,
            batch_size=feed.batch_size,
            dtype=trunk.dtype,
            precision=trunk.precision,
        )
        if store is None:
            return None
        found[name] = store
    return found


@contextlib.contextmanager
def _plain(feed: Feed) -> Iterator[Batches]:
    yield feed.train(), feed.plain("val") if "val" in feed.data.splits else None


@contextlib.contextmanager
def _stored(
    model: keras.Model, split: Split, stores: dict[str, FrontierStore], feed: Feed
) -> Iterator[Batches]:
    splits = feed.data.splits
    with fed_from_frontier(model, split):
        train = stores["train"].batches(
            splits["train"],
            batch_size=feed.batch_size,
            training=True,
            seed=feed.seed,
            epoch=feed.epoch,
            balance=feed.options.get("balance", "none"),
        )
        val = None
        if "val" in stores:
            val = stores["val"].batches(splits["val"], batch_size=feed.batch_size)
        yield train, val
