"""Drawn for a logger: examples side by side, a confusion matrix, mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw

from ftkeras.data.feed import Feed
from ftkeras.evaluation.predictions import Predictions
from ftkeras.inputs.base import PLAIN
from ftkeras.measures.metrics import softmax

_MISTAKES = 25
_CELL = 44  # pixels of a confusion matrix's cell, with text
_MOST_NAMED = 30  # classes whose names and counts are written
_LETTER = 7  # pixels, of the built-in font at its size
_INK = (33, 37, 41)


def training_batch(feed: Feed) -> np.ndarray | None:
    """Returns the first training batch as the model sees it; None if such examples have no looks.

    They are cut, augmented and mixed.
    """
    show = feed.input.ability("show")
    if show is None:
        return None
    if feed.is_plain:  # without the second that tracing a pipeline takes
        first = feed.indices(0, 0)[: show.MOST_IN_GRID]
        return np.asarray(show.grid(_inputs(feed, "train", first)))
    inputs = next(iter(dataclasses.replace(feed, cache="none").train()))[0]
    return np.asarray(show.grid(inputs.numpy()))


def worst_mistakes(feed: Feed, split: str, answers: Predictions) -> np.ndarray | None:
    """Returns the mistakes that the model is surest of, drawn; None without mistakes.

    Args:
        feed: The run's data.
        split: The split that was measured.
        answers: What it said, in the split's order.
    """
    logits, labels = answers.logits, answers.labels
    if labels.ndim == 2:
        sure = np.where((logits > 0) != (labels > 0), np.abs(logits), -np.inf).max(axis=1)
    else:
        wrong = logits.argmax(axis=1) != labels
        sure = np.where(wrong, softmax(logits).max(axis=1), -np.inf)
    worst = [i for i in np.argsort(-sure, kind="stable").tolist() if np.isfinite(sure[i])]
    show = feed.input.ability("show")
    if show is None or not worst:
        return None
    return np.asarray(show.grid(_inputs(feed, split, worst[:_MISTAKES])))


def _inputs(feed: Feed, split: str, indices: Sequence[int]) -> np.ndarray:
    """Returns examples of a split as the model sees them, float32 (n, ...)."""
    fetch = feed.data.splits[split].fetch
    raw = (fetch(tf.constant(index, tf.int64)) for index in indices)
    return np.stack([np.asarray(feed.input.read(one, PLAIN, tf.zeros(2, tf.int32))) for one in raw])


def drawn_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Returns a confusion matrix as it is drawn, uint8 (h, w, 3).

    Rows are true classes, columns answers; a cell's blue is its share of its row. Up to 30 classes
    have their names and counts.

    Args:
        matrix: Counts (classes, classes).
        class_names: One name per class.
    """
    matrix = np.asarray(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # (classes, classes)
    colours = 255 - share[..., None] * (255 - np.array([8, 81, 156]))  # white to blue
    cells = Image.fromarray(np.round(colours).astype(np.uint8))
    count = len(matrix)
    if count > _MOST_NAMED:
        side = count * max(1, 600 // count)
        return np.asarray(cells.resize((side, side), Image.Resampling.NEAREST))
    margin = _LETTER * max(map(len, class_names)) + 12
    side = count * _CELL
    canvas = Image.new("RGB", (margin + side, side + margin), "white")
    canvas.paste(cells.resize((side, side), Image.Resampling.NEAREST), (margin, 0))
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(class_names):
        draw.text((4, row * _CELL + _CELL // 2 - 5), _plain(name), fill=_INK)
        for column in range(count):
            ink = "white" if share[row, column] > 0.5 else _INK
            position = (margin + column * _CELL + 6, row * _CELL + _CELL // 2 - 5)
            draw.text(position, str(int(matrix[row, column])), fill=ink)
    # The names of the columns are written along a row, and turned with it.
    below = Image.new("RGB", (margin, side), "white")
    pen = ImageDraw.Draw(below)
    for column, name in enumerate(class_names):
        pen.text((6, side - (column + 1) * _CELL + _CELL // 2 - 5), _plain(name), fill=_INK)
    canvas.paste(below.transpose(Image.Transpose.ROTATE_270), (margin, side))
    return np.asarray(canvas)


def _plain(name: str) -> str:
    """The built-in font may have no other letters."""
    return name.encode("ascii", "replace").decode()
