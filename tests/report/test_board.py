from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Data, Split
from ftkeras.data.feed import Feed
from ftkeras.evaluation.predictions import Predictions
from ftkeras.inputs.image.input import ImageInput
from ftkeras.inputs.image.show import grid
from ftkeras.outputs.one_of import OneOf
from ftkeras.report.board import drawn_matrix, training_batch, worst_mistakes


def feed(count: int = 6) -> Feed:
    """Image i is all of the grey 10 * i."""
    fetch = lambda i: tf.cast(tf.fill((4, 4, 3), 10 * i), tf.uint8)  # noqa: E731
    split = Split("train", [str(i) for i in range(count)], np.arange(count) % 2, 2, fetch)
    data = Data("arrays", {"label": OneOf(("cat", "dog"))}, {"train": split})
    return Feed(data, ImageInput(4), batch_size=count)


def answers(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    return Predictions(logits, labels, np.arange(len(labels)).astype(str))


def shades(grid: np.ndarray) -> list[int]:
    """The grey of each 4 x 4 image of a grid, white ones left out."""
    cells = grid.reshape(grid.shape[0] // 6, 6, grid.shape[1] // 6, 6, 3)[:, 2, :, 2, 0]
    return [value for value in cells.ravel().tolist() if value != 255]


def test_the_first_training_batch_is_shuffled():
    shown = shades(training_batch(feed()))
    assert sorted(shown) == [0, 10, 20, 30, 40, 50]
    assert shown != sorted(shown)
    first = next(iter(feed().train()))[0]  # what is shown without a pipeline is what it gives
    assert shown == shades(grid(first.numpy()))
    augmented = dataclasses.replace(feed(), view="strong")
    assert not np.array_equal(training_batch(augmented), training_batch(feed()))


def test_the_surest_mistakes_come_first():
    right, unsure, sure = [5, 0], [0, 1], [0, 9]
    logits = np.array([right, right[::-1], unsure, right[::-1], sure, right[::-1]], np.float32)
    labels = np.arange(6) % 2
    assert shades(worst_mistakes(feed(), "train", answers(logits, labels))) == [40, 20]
    assert worst_mistakes(feed(), "train", answers(np.eye(2)[labels], labels)) is None


def test_mistakes_with_several_labels():
    labels = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    logits = np.array([[2, -2], [3, -1], [-1, 4]], np.float32)
    assert shades(worst_mistakes(feed(3), "train", answers(logits, labels))) == [20, 10]


def test_a_confusion_matrix_is_bluest_where_a_row_is():
    picture = drawn_matrix(np.array([[8, 0], [2, 2]]), ["cat", "dog"])
    size = picture.shape[0]
    assert picture.shape == (size, size, 3)
    corners = [
        picture[2 + 44 * row, size - 2 - 44 * (1 - column)] for row in (0, 1) for column in (0, 1)
    ]
    assert [corner.tolist() for corner in corners] == [
        [8, 81, 156], [255, 255, 255], [132, 168, 206], [132, 168, 206]
    ]  # fmt: skip


def test_many_classes_are_shown_without_names():
    picture = drawn_matrix(np.eye(200), [str(i) for i in range(200)])
    assert picture.shape == (600, 600, 3)
    assert picture[0, 0].tolist() == [8, 81, 156]
