"""Shares of batches: together they are the batches that one worker would read, padded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.data.share import Rows, Share, take_share
from ftkeras.runs.build import batches

COUNT = 22


class Numbered:
    """22 pictures whose value is their number, and how many of them have been read."""

    def __init__(self) -> None:
        self.reads = tf.Variable(0)
        labels = np.arange(COUNT, dtype=np.int32) % 3
        self.split = Split("train", [str(i) for i in range(COUNT)], labels, 3, self.fetch)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        self.reads.assign_add(1)
        return tf.ones((2, 2, 3), tf.uint8) * tf.cast(index, tf.uint8)


OPTIONS = {"image_size": 2, "training": True, "seed": 3, "epoch": 1, "cache": "none"}


def padded(whole: tf.data.Dataset, replicas: int) -> list[tuple]:
    """Returns each batch as several replicas see it: rows, labels and what they count for."""
    found = []
    for inputs, labels, *weights in whole.as_numpy_iterator():
        count = len(inputs)
        rows = np.arange(-(-count // replicas) * replicas)
        real = (rows < count).astype(np.float32)
        own = weights[0] if weights else np.ones(count, np.float32)
        chosen = rows % count
        scaled = own[chosen] * real * len(rows) / count
        examples = np.full(len(rows), count / len(rows), np.float32)
        found.append((inputs[chosen], labels[chosen], (scaled, real, examples)))
    return found


def assert_same(found: Any, expected: Any) -> None:
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), tuple(found), tuple(expected)
    )


@pytest.mark.parametrize(
    ("batch_size", "count", "replicas", "more"),
    [
        (8, 2, 2, {}),
        (8, 4, 4, {"start": 8}),
        (8, 2, 4, {"balance": "class_weights"}),
        (7, 3, 3, {}),  # every batch is padded
        (7, 1, 4, {}),
        (21, 3, 6, {}),  # the last batch has one example for three workers
        (8, 2, 2, {"mixup": 0.4}),
        (8, 1, 3, {"mixup": 0.4}),
        (8, 2, 2, {"drop_remainder": True}),
        (7, 2, 2, {"drop_remainder": True}),
        (8, 1, 2, {"training": False}),
    ],
)
def test_shares_together_are_the_padded_batches(batch_size, count, replicas, more):
    split = Numbered().split
    options = {**OPTIONS, **more, "batch_size": batch_size}
    whole = batches(split, **options)
    shares = [batches(split, **options, share=Share(i, count, replicas)) for i in range(count)]
    assert {int(share.cardinality()) for share in shares} == {int(whole.cardinality())}
    parts = [list(share.as_numpy_iterator()) for share in shares]
    for batch, *found in zip(padded(whole, replicas), *parts, strict=True):
        assert all(isinstance(part[2], Rows) for part in found)
        found = [(inputs, labels, tuple(rows)) for inputs, labels, rows in found]
        assert_same(tf.nest.map_structure(lambda *part: np.concatenate(part), *found), batch)


def test_one_replica_gets_the_batches_as_they_are():
    split = Numbered().split
    alone = batches(split, **OPTIONS, batch_size=8, share=Share())
    assert [len(batch) for batch in alone] == [2, 2, 2]
    assert take_share(alone, Share()) is alone


@pytest.mark.parametrize("weights", [None, "one", "heads"])
def test_the_mean_over_padded_rows_is_the_mean_over_examples(weights):
    random = np.random.default_rng(0)
    values, own = random.normal(size=(2, 5)).astype(np.float32)
    arrays = {None: (), "one": (own,), "heads": ({"a": own, "b": own * 2},)}[weights]
    data = tf.data.Dataset.from_tensor_slices((values, values, *arrays)).batch(5)
    [(rows, _, (scaled, real, examples))] = take_share(data, Share(replicas=4))
    assert rows.shape == (8,) and real.numpy().sum() == 5 and examples.numpy().sum() == 5
    for name, factor in ((None, 1.0), ("a", 1.0), ("b", 2.0)):
        each = scaled[name] if isinstance(scaled, dict) and name else scaled
        if isinstance(each, dict) or (name and weights != "heads"):
            continue
        expected = np.mean(values * (own * factor if weights else 1.0))
        np.testing.assert_allclose(np.mean(rows * each), expected, rtol=1e-6)


def test_shapes_stay_static_if_batches_are_full():
    options = {**OPTIONS, "batch_size": 7, "drop_remainder": True}
    for count in (1, 2):
        share = batches(Numbered().split, **options, share=Share(0, count, 4))
        assert {part.shape[0] for part in tf.nest.flatten(share.element_spec)} == {8 // count}


def test_a_worker_reads_its_share_alone():
    numbered = Numbered()
    share = batches(numbered.split, **OPTIONS, batch_size=8, share=Share(1, 2, 2))
    sizes = [len(images) for images, *_ in share.as_numpy_iterator()]
    assert sizes == [4, 4, 3]
    assert int(numbered.reads) == 11


def test_a_resumed_epoch_is_shared_as_what_is_left_of_it():
    start = tf.Variable(8, dtype=tf.int64)
    options = {**OPTIONS, "batch_size": 8, "start": start}
    whole = batches(Numbered().split, **options)
    shares = [batches(Numbered().split, **options, share=Share(i, 2, 2)) for i in range(2)]
    assert [int(share.cardinality()) for share in shares] == [3, 3]  # of the epochs to come
    first, second = ([len(b[0]) for b in share.as_numpy_iterator()] for share in shares)
    assert [len(b[0]) for b in whole.as_numpy_iterator()] == [8, 6]
    assert (first, second) == ([4, 3], [4, 3])


def test_workers_of_no_whole_number_of_replicas_are_refused():
    with pytest.raises(ValueError, match="3 replicas cannot be those of 2 workers"):
        Share(0, 2, 3)
