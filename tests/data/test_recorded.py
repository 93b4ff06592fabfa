"""Batches as version 0.1 made them: which examples, cut, changed and mixed how."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.data.dataset import Split
from ftkeras.runs.build import batches

COUNT = 7


def files() -> list[bytes]:
    """JPEG and PNG files whose sides are 16 to 120 pixels, the same on every machine."""
    encoded = []
    for number in range(COUNT):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
        image = coarse.resize((120 - 12 * number, 16 + 17 * number), Image.Resampling.NEAREST)
        buffer = io.BytesIO()
        image.save(buffer, "PNG" if number % 3 == 0 else "BMP")
        encoded.append(buffer.getvalue())
    return encoded


@pytest.fixture(scope="module")
def split() -> Split:
    raw = tf.constant(files())
    labels = np.arange(COUNT, dtype=np.int32) % 2
    return Split("train", [str(i) for i in range(COUNT)], labels, 2, lambda index: raw[index])


def fingerprint(data: tf.data.Dataset) -> list[float]:
    """Returns a number for each example, which follows from all its pixels and its label.

    It is rounded, because the order in which a processor adds is its own.
    """
    found = []
    for images, labels in data.as_numpy_iterator():
        places = np.cos(np.arange(images[0].size)).reshape(images[0].shape)
        found += (np.sum(images * places, axis=(1, 2, 3)) + 1000 * labels[:, 1]).tolist()
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [108.5, 1197.8, 265.3, 1122.6, 160.7, 1165.2, 115.4]),
        (
            {"resize": "pad", "training": True, "strength": "light", "seed": 3, "epoch": 2},
            [144.7, 178.4, 227.7, 1198.6, 155.9, 1161.2, 1135.9],
        ),
        (
            {"training": True, "strength": "strong", "seed": 1, "start": 2, "cache": "memory"},
            [316.2, 1098.5, 1237.9, 86.7, 1150.1],
        ),
        (
            {"training": True, "seed": 5, "mixup": 0.4, "cutmix": 1.0, "resize": "squash"},
            [1136.6, 592.0, 133.9, 840.7, 241.0, 730.7, 542.8],
        ),
        (
            {"training": True, "seed": 2, "balance": "sampling", "strength": "medium"},
            [1295.0, 146.8, 354.1, 177.7, 238.8, 1221.9, 1227.8],
        ),
    ],
)
def test_batches_are_those_of_version_0_1(split, options, expected):
    found = fingerprint(batches(split, image_size=16, batch_size=4, **options))
    np.testing.assert_allclose(found, expected, atol=0.5)
