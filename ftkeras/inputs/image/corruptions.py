"""Images as a worse camera, worse weather or a different eye would have given them.

The 15 common corruptions are those of Hendrycks and Dietterich 2019, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", from the package that keeps their code alive.
As in the paper they are applied to the image at the model's input size.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from ftkeras.errors import UserError
from ftkeras.imports import to_install

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
USUAL = ("gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression")
"""A few of every sort, for measuring many models."""
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32  # pixels; the corruptions are not defined below it
_SEEDED = ("impulse_noise", "glass_blur")  # take a seed in addition to NumPy's global one

Change = Callable[[np.ndarray], np.ndarray]


def check(kind: Any, field: str) -> None:
    """Raises UserError, which names `field`, if the model's input size is too small."""
    if kind.size and kind.size < SMALLEST:
        raise UserError(
            f"{field}: corruptions need images of at least {SMALLEST} px, and the model's have "
            f"{kind.size}. Train it with data.input.size={SMALLEST} or more."
        )


def check_installed(field: str) -> None:
    """Raises UserError, which names `field`, if the package of the corruptions is missing."""
    if importlib.util.find_spec("imagecorruptions") is None:
        raise UserError(f"{field}: install the corruptions: {to_install('robustness')}")


def to_change(images: tf.Tensor) -> np.ndarray:
    """Returns images (b, s, s, 3) as uint8, for `corrupt` and `SHIFTS`."""
    return tf.cast(images, tf.uint8).numpy()


def corrupt(image: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """Returns an image with one of `CORRUPTIONS`; the same seed gives the same pixels.

    Args:
        image: uint8 (h, w, 3) RGB, at least 32 pixels high and wide.
        name: One of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Decides all that is random.

    Returns:
        uint8 (h, w, 3).

    Raises:
        UserError: The extra "robustness" is not installed.
    """
    try:
        from imagecorruptions import corrupt as corrupted
    except ImportError as error:
        raise UserError(
            f"robustness: {error}. Install the corruptions: {to_install('robustness')}"
        ) from None
    own = {"seed": seed} if name in _SEEDED else {}
    with _global_seed(seed):
        return np.asarray(corrupted(image, severity=severity, corruption_name=name, **own))


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator in a block, and restores its state afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _farther(image: np.ndarray) -> np.ndarray:
    """Shrinks the scene to 70%, its surroundings mirrored."""
    height, width, _ = image.shape
    small = np.asarray(Image.fromarray(image).resize((round(0.7 * width), round(0.7 * height))))
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    bottom, right = height - small.shape[0] - top, width - small.shape[1] - left
    return np.pad(small, ((top, bottom), (left, right), (0, 0)), "symmetric")


def _window(x: float, y: float, side: float) -> Change:
    """Returns a function that enlarges a window to the whole image; corner and side are shares."""

    def change(image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        box = (x * width, y * height, (x + side) * width, (y + side) * height)
        return np.asarray(Image.fromarray(image).resize((width, height), box=box))

    return change


def _gains(red: float, green: float, blue: float) -> Change:
    """Returns a function that multiplies the channels."""
    gains = np.array([red, green, blue])
    return lambda image: np.clip(np.rint(image * gains), 0, 255).astype(np.uint8)


def _grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


SHIFTS: dict[str, Change] = {
    "farther": _farther,
    "nearer": _window(1 / 7, 1 / 7, 5 / 7),  # the middle, 1.4 times as large
    "crop_top_left": _window(0.0, 0.0, 0.8),
    "crop_bottom_right": _window(0.2, 0.2, 0.8),
    "darker": _gains(0.6, 0.6, 0.6),
    "brighter": _gains(1.4, 1.4, 1.4),
    "warmer": _gains(1.2, 1.0, 0.8),
    "cooler": _gains(0.8, 1.0, 1.2),
    "grey": _grey,
}
