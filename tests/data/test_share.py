"""Shares of batches: together they are the batches that one worker would read."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.data.decode import Crop, cut
from ftkeras.data.pipeline import batches
from ftkeras.data.share import Share

COUNT = 22


class Numbered:
    """22 pictures whose value is their number, and how many of them have been read."""

    def __init__(self) -> None:
        self.reads = tf.Variable(0)
        labels = np.arange(COUNT, dtype=np.int32) % 3
        self.split = Split("train", [str(i) for i in range(COUNT)], labels, 3, self.fetch)

    def fetch(self, index: tf.Tensor, least: int = 0, part: Crop | None = None) -> tf.Tensor:
        self.reads.assign_add(1)
        return cut(tf.ones((2, 2, 3), tf.uint8) * tf.cast(index, tf.uint8), part)


OPTIONS = {"image_size": 2, "training": True, "seed": 3, "epoch": 1, "cache": "none"}


@pytest.mark.parametrize(
    ("batch_size", "count", "more"),
    [
        (8, 2, {}),
        (8, 4, {"start": 8}),
        (7, 3, {}),  # parts differ in size
        (21, 3, {}),  # the last batch has one example for three workers
        (8, 2, {"mixup": 0.4}),
        (8, 2, {"drop_remainder": True}),
    ],
)
def test_shares_together_are_the_batches(batch_size, count, more):
    split = Numbered().split
    options = {**OPTIONS, **more, "batch_size": batch_size}
    whole = batches(split, **options)
    shares = [batches(split, **options, share=Share(i, count)) for i in range(count)]
    assert {int(share.cardinality()) for share in shares} == {int(whole.cardinality())}
    parts = [list(share.as_numpy_iterator()) for share in shares]
    for step, batch in enumerate(whole.as_numpy_iterator()):
        # A worker whose part of the last batch is empty may have a batch less.
        there = [batches[step] for batches in parts if step < len(batches)]
        for place, tensor in enumerate(batch):
            joined = np.concatenate([part[place] for part in there])
            np.testing.assert_array_equal(joined, tensor)


def test_a_worker_reads_its_share_alone():
    numbered = Numbered()
    share = batches(numbered.split, **OPTIONS, batch_size=8, share=Share(1, 2))
    sizes = [len(images) for images, _ in share.as_numpy_iterator()]
    assert sizes == [4, 4, 3]
    assert int(numbered.reads) == 11


def test_a_resumed_epoch_is_shared_as_what_is_left_of_it():
    start = tf.Variable(8, dtype=tf.int64)
    options = {**OPTIONS, "batch_size": 8, "start": start}
    whole = batches(Numbered().split, **options)
    shares = [batches(Numbered().split, **options, share=Share(i, 2)) for i in range(2)]
    assert [int(share.cardinality()) for share in shares] == [3, 3]  # of the epochs to come
    first, second = ([len(b[0]) for b in share.as_numpy_iterator()] for share in shares)
    assert [len(b[0]) for b in whole.as_numpy_iterator()] == [8, 6]
    assert (first, second) == ([4, 3], [4, 3])
