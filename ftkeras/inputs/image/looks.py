"""Measurements of images (size, a fingerprint of the content, a thumbnail), and odd images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.findings import Finding, percent
from ftkeras.inputs.copies import content_hash
from ftkeras.inputs.image.decode import whole
from ftkeras.inputs.image.input import ImageInput
from ftkeras.inputs.rows import Rows

THUMBNAIL = 32  # pixels a side
CHROMA = 4.0  # mean difference between channels, of 255, that JPEG leaves in a grey image
BLANK = 2.0  # standard deviation, of 255, below which an image shows nothing

_USUAL_SIZE = 224  # pixels, if the config leaves it to the backbone
_LONG = 4.0  # times as long as wide
_TINY = 4.0  # times smaller than the model's input, and than most images of the set
_ENLARGED = 2.0
_MIXED = 0.02  # the smaller share from which grey and colour count as mixed


@dataclass(frozen=True, kw_only=True)
class Looks(Rows):
    """Measurements of all images of all splits, one row per image.

    Args:
        sizes: Height and width in pixels. (n, 2)
        contents: A 62-bit fingerprint of size and pixels. (n,)
        deviation: Standard deviation of its grey values, 0..255. (n,)
        coloured: Whether its channels differ. (n,)
        thumbnails: uint8 (n, 32, 32): the whole image, squashed, in grey.
    """

    sizes: np.ndarray
    contents: np.ndarray
    deviation: np.ndarray
    coloured: np.ndarray
    thumbnails: np.ndarray

    @property
    def blank(self) -> np.ndarray:
        """Which images show nothing. (n,)"""
        return self.deviation < BLANK


@tf.autograph.experimental.do_not_convert
def measure(image: tf.Tensor, kind: ImageInput) -> tuple[tf.Tensor, ...]:
    """Returns size, content, deviation, chroma and thumbnail of an image, as a source yields it."""
    image = whole(image)  # (h, w, 3)
    content = content_hash(image)
    pixels = tf.cast(image, tf.float32)
    grey = tf.reduce_mean(pixels, axis=-1, keepdims=True)  # (h, w, 1)
    chroma = tf.reduce_mean(tf.reduce_max(pixels, axis=-1) - tf.reduce_min(pixels, axis=-1))
    small = tf.image.resize(grey, (THUMBNAIL, THUMBNAIL), antialias=True)[..., 0]
    thumbnail = tf.cast(tf.clip_by_value(tf.round(small), 0.0, 255.0), tf.uint8)
    return tf.shape(image)[:2], content, tf.math.reduce_std(grey), chroma, thumbnail


def gather(seen: Sequence[np.ndarray], **rows: Any) -> Looks:
    """Returns the measurements of all images as rows.

    Args:
        seen: The results of `measure`, (n, ...) each.
        **rows: The arguments of `Rows`.
    """
    sizes, contents, deviation, chroma, thumbnails = seen
    return Looks(
        **rows,
        sizes=sizes,
        contents=contents,
        deviation=deviation,
        coloured=chroma > CHROMA,
        thumbnails=thumbnails,
    )


def find_odd(looks: Looks, class_names: Sequence[str], kind: ImageInput) -> list[Finding]:
    """Finds images that show nothing, are tiny or long, or mix grey and colour.

    Args:
        looks: The measurements.
        class_names: Names of the classes.
        kind: The kind of input, with the model's size.
    """
    checks = (
        _blank(looks),
        _tiny(looks, kind.size or _USUAL_SIZE),
        _long(looks, kind.resize),
        _grey(looks, class_names),
    )
    return [finding for finding in checks if finding]


def _blank(looks: Looks) -> Finding | None:
    rows = np.flatnonzero(looks.blank)
    if not len(rows):
        return None
    return Finding(
        "warning",
        "blank images",
        f"{percent(len(rows), len(looks))} images have one colour and show nothing.",
        "Check them and remove them: a model can only memorise their labels.",
        tuple(
            looks.evidence(i, f"deviation {looks.deviation[i]:.1f} of 255") for i in rows.tolist()
        ),
    )


def _tiny(looks: Looks, image_size: int) -> Finding | None:
    shorter = looks.sizes.min(axis=1)  # (n,)
    usual = float(np.median(shorter))
    rows = np.flatnonzero(shorter < min(image_size, usual) / _TINY)
    if len(rows):
        return Finding(
            "warning",
            "tiny images",
            f"{percent(len(rows), len(looks))} images are more than {_TINY:g} times smaller than "
            f"most (median of the shorter side: {usual:.0f} px) and than the model's input "
            f"({image_size} px).",
            "Remove thumbnails and icons, or find them in full size.",
            tuple(looks.evidence(i, _size(looks, i)) for i in rows.tolist()),
        )
    if usual * _ENLARGED <= image_size:
        return Finding(
            "note",
            "enlarged images",
            f"Half of the images have {usual:.0f} px or less on the shorter side and are enlarged "
            f"to {image_size} px.",
            "Enlarging adds no detail but costs time; try a smaller data.input.size as well.",
        )
    return None


def _long(looks: Looks, resize: str) -> Finding | None:
    ratio = looks.sizes.max(axis=1) / np.maximum(looks.sizes.min(axis=1), 1)  # (n,)
    rows = np.flatnonzero(ratio > _LONG)
    if not len(rows):
        return None
    happens = {
        "crop": f"data.input.resize: crop shows the model less than 1/{_LONG:g} of each",
        "pad": f"data.input.resize: pad leaves more than {1 - 1 / _LONG:.0%} of the input black",
        "squash": f"data.input.resize: squash presses each to less than 1/{_LONG:g} of its length",
    }[resize]
    return Finding(
        "warning",
        "long images",
        f"{percent(len(rows), len(looks))} images are more than {_LONG:g} times as long as wide; "
        f"{happens}.",
        "Cut out the part that matters, or choose another data.input.resize.",
        tuple(looks.evidence(i, _size(looks, i)) for i in rows.tolist()),
    )


def _grey(looks: Looks, class_names: Sequence[str]) -> Finding | None:
    """A mix of grey and colour is harmless if spread evenly; otherwise it is a shortcut."""
    shown = ~looks.blank
    grey = shown & ~looks.coloured
    share = grey.sum() / max(shown.sum(), 1)
    if not _MIXED <= share <= 1 - _MIXED:
        return None
    fewer = grey if share <= 0.5 else shown & looks.coloured
    kind = "grey" if share <= 0.5 else "in colour"
    message = f"{percent(int(fewer.sum()), int(shown.sum()))} images are {kind}, the others not"
    evidence = tuple(looks.evidence(i, _size(looks, i)) for i in np.flatnonzero(fewer).tolist())
    apart = looks.telling(grey, shown, class_names, "grey")
    if apart:
        return Finding(
            "warning",
            "grey and colour",
            f"{message}, and {apart}: the model can use colour instead of content.",
            "Make all images grey, or find images of both kinds for every class and split.",
            evidence,
        )
    remedy = "Expect the same mix where the model will be used, or make all images grey."
    return Finding("note", "grey and colour", f"{message}.", remedy, evidence)


def _size(looks: Looks, row: int) -> str:
    return f"{looks.sizes[row, 1]} x {looks.sizes[row, 0]} px"
