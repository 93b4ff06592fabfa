"""Batches of two domains: which rows are paired, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.dataset import Data, Split
from ftkeras.data.paired import PairedFeed
from ftkeras.data.share import Share
from ftkeras.errors import UserError
from ftkeras.inputs.image.input import ImageInput
from ftkeras.outputs.one_of import OneOf


def split(name: str, count: int, first: int) -> Split:
    """Images whose pixels are all of one value, which counts on from `first`."""
    pixels = tf.constant(np.arange(first, first + count), tf.uint8)

    def fetch(index: tf.Tensor) -> tf.Tensor:
        return tf.fill((8, 8, 3), tf.gather(pixels, index))

    return Split(name, [f"{name}{i}" for i in range(count)], np.arange(count) % 2, 2, fetch)


def feed(target: int, **options: object) -> PairedFeed:
    splits = {
        "train": split("train", 7, 0),
        "val": split("val", 5, 20),
        "target_train": split("target_train", target, 100),
        "target_val": split("target_val", 3, 200),
    }
    data = Data("arrays", {"label": OneOf(("a", "b"))}, splits)
    settings = {"batch_size": 3, "seed": 1, "cache": "none", **options}
    return PairedFeed(data, ImageInput(8), **settings)  # type: ignore[arg-type]


def epoch(paired: PairedFeed, number: int = 0, start: int = 0) -> list[tuple[np.ndarray, ...]]:
    paired.epoch.assign(number)
    paired.start.assign(start)
    return list(paired.train().as_numpy_iterator())


def values(batches: list[tuple[np.ndarray, ...]]) -> list[int]:
    return [int(value) for images, *_ in batches for value in images[:, 0, 0, 0]]


def test_rows_take_turns_and_the_targets_say_nothing():
    batches = epoch(feed(5))
    assert [len(images) for images, *_ in batches] == [6, 6]  # 7 of the source: one is left over
    for images, labels, weights in batches:
        source = images[:, 0, 0, 0] < 100
        assert source.tolist() == [True, False] * (len(images) // 2)
        np.testing.assert_array_equal(labels.sum(axis=1), source)
        np.testing.assert_array_equal(weights, 2.0 * source)
        np.testing.assert_array_equal(labels[source].argmax(1), images[source, 0, 0, 0] % 2)


@pytest.mark.parametrize("target", [3, 5, 20])
def test_all_of_the_target_comes_before_any_comes_again(target):
    paired = feed(target)
    seen = [v for number in range(9) for v in values(epoch(paired, number)) if v >= 100]
    assert len(seen) == 9 * 6
    rounds = [seen[i : i + target] for i in range(0, len(seen) - target + 1, target)]
    for one in rounds:
        assert sorted(one) == list(range(100, 100 + target))
    assert any(one != rounds[0] for one in rounds)


def test_an_epoch_that_goes_on_sees_what_it_would_have_seen():
    paired = feed(5)
    assert values(epoch(paired, 2, start=3)) == values(epoch(paired, 2))[6:]


def test_workers_share_the_pairs():
    whole = epoch(feed(5))
    parts = [epoch(feed(5, share=Share(index, 2, 2))) for index in range(2)]
    for number, batch in enumerate(whole):
        both = np.concatenate([part[number][0] for part in parts])
        np.testing.assert_array_equal(both, batch[0])


def test_validation_is_of_both_domains_and_weighs_the_source():
    validation = feed(5).validation()
    assert validation is not None
    assert int(validation.cardinality()) == 3
    images, labels, weights = (np.concatenate(p) for p in zip(*validation, strict=True))
    assert images[:, 0, 0, 0].tolist() == [20, 21, 22, 23, 24, 200, 201, 202]
    np.testing.assert_allclose(weights, [8 / 5] * 5 + [0] * 3)
    np.testing.assert_array_equal(labels.sum(axis=1), [1] * 5 + [0] * 3)


def test_replicas_share_the_validation_of_both_domains():
    whole, shared = feed(5).validation(), feed(5, share=Share(replicas=4)).validation()
    assert whole is not None and shared is not None
    assert int(shared.cardinality()) == int(whole.cardinality())
    for batch, (images, labels, rows) in zip(whole, shared, strict=True):
        real = rows.real.numpy() == 1
        assert len(images) % 4 == 0 and rows.weights.numpy()[~real].sum() == 0
        np.testing.assert_array_equal(images[real], batch[0])
        np.testing.assert_array_equal(labels[real], batch[1])
        np.testing.assert_allclose(np.mean(rows.weights), np.mean(batch[2]), rtol=1e-6)


def test_batches_larger_than_the_source_are_refused():
    with pytest.raises(UserError, match="8 is more than the images of train"):
        feed(5, batch_size=8)


def test_what_is_measured_where_the_target_has_no_such_split():
    assert feed(5).split_for("test") == "target_val"


def test_pixels_are_kept_in_memory_by_their_place(tmp_path: Path):
    kept = feed(5, cache="memory")
    for number in range(2):
        assert values(epoch(kept, number)) == values(epoch(feed(5), number))
