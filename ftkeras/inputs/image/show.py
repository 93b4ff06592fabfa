"""Images for figures: in a grid, small for a page, with a map over them."""

from __future__ import annotations

import base64
import math

import numpy as np
import tensorflow as tf

MOST_IN_GRID = 64
_SIDE = 144  # pixels, of a thumbnail
_QUALITY = 82
# From dark to light: distinct in grey, and for people with red-green colour blindness.
_COLOURS = np.array(
    [(20, 11, 52), (106, 23, 110), (188, 55, 84), (243, 120, 25), (252, 255, 164)], np.float32
)


def grid(images: np.ndarray) -> np.ndarray:
    """Returns images in rows from left to right, white where there are none.

    Args:
        images: Numbers 0..255, (n, h, w, 3); at most 64 are shown.

    Returns:
        uint8 (rows * (h + 2), columns * (w + 2), 3).
    """
    shown = np.clip(np.round(images[:MOST_IN_GRID]), 0, 255).astype(np.uint8)
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    framed = np.pad(shown, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    count, height, width, _ = framed.shape
    missing = np.full((rows * columns - count, height, width, 3), 255, np.uint8)
    cells = np.concatenate([framed, missing]).reshape(rows, columns, height, width, 3)
    return cells.swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns an image in grey with a map over it, from dark (0) to bright yellow (1).

    Args:
        image: (size, size, 3), 0..255.
        heat: (h, w), 0..1.

    Returns:
        uint8 (size, size, 3).
    """
    size = image.shape[:2]
    smooth = tf.image.resize(heat[..., None], size, method="bilinear").numpy()  # (size, size, 1)
    smooth = np.clip(smooth, 0.0, 1.0)
    at = smooth[..., 0] * (len(_COLOURS) - 1)
    colour = np.stack(
        [np.interp(at, np.arange(len(_COLOURS)), _COLOURS[:, c]) for c in range(3)], axis=-1
    )
    grey = image.astype(np.float32).mean(axis=-1, keepdims=True)  # (size, size, 1)
    return np.clip(0.35 * grey + 0.65 * colour, 0, 255).astype(np.uint8)


def data_uri(image: np.ndarray) -> str:
    """Returns an image (s, s, 3), 0..255, as a small JPEG in the text of a page."""
    side = min(_SIDE, image.shape[0])
    small = tf.image.resize(image, (side, side), antialias=True)
    small = tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8)
    encoded = tf.io.encode_jpeg(small, quality=_QUALITY, optimize_size=True).numpy()
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")
