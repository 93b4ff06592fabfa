"""What corruptions and shifts do to pixels."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from skimage.color import rgb2hsv

from ftkeras.errors import UserError
from ftkeras.inputs.image.corruptions import CORRUPTIONS, SEVERITIES, SHIFTS, corrupt


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A smooth picture in all colours."""
    rows, columns = np.mgrid[0:48, 0:40]
    waves = (np.sin(rows / 7), np.cos(columns / 5), np.sin((rows + columns) / 9))
    return np.stack([127 + 90 * wave for wave in waves], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_seed_decides_every_pixel_and_severity_how_far_they_are_off(photo, name):
    off = []
    for severity in SEVERITIES:
        np.random.seed(severity)  # a caller's own generator must neither matter nor move
        state = np.random.get_state()[1].tolist()
        once = corrupt(photo, name, severity, seed=1)
        assert np.random.get_state()[1].tolist() == state
        np.random.seed(99)
        np.testing.assert_array_equal(once, corrupt(photo, name, severity, seed=1))
        assert (once.shape, once.dtype) == (photo.shape, np.uint8)
        off.append(np.abs(once.astype(int) - photo).mean())
    assert min(off) > 0
    assert off[4] > off[0] or name == "frost"  # which dims the picture as the ice gets thicker


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "glass_blur", "snow", "fog"])
def test_another_seed_gives_another_picture(photo, name):
    assert (corrupt(photo, name, 3, seed=1) != corrupt(photo, name, 3, seed=2)).any()


def test_contrast_and_brightness_have_the_published_strengths(photo):
    x = photo / 255
    mean = x.mean(axis=(0, 1))
    for severity, kept in zip(SEVERITIES, (0.4, 0.3, 0.2, 0.1, 0.05), strict=True):
        expected = 255 * (mean + kept * (x - mean))
        np.testing.assert_allclose(corrupt(photo, "contrast", severity, 0), expected, atol=1)
    for severity, more in zip(SEVERITIES, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True):
        value = rgb2hsv(corrupt(photo, "brightness", severity, 0))[..., 2]
        np.testing.assert_allclose(value, np.minimum(x.max(axis=-1) + more, 1), atol=2 / 255)


def test_the_missing_extra_is_named(photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UserError, match="pip install imagecorruptions-imaug"):
        corrupt(photo, "fog", 1, 0)


# ---------------------------------------------------------------------------- shifts


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_keep_the_size_and_never_touch_the_original(photo, name):
    before = photo.copy()
    shifted = SHIFTS[name](photo)
    assert (shifted.shape, shifted.dtype) == (photo.shape, np.uint8)
    assert (shifted != photo).any()
    np.testing.assert_array_equal(photo, before)


def test_shifts_of_colour_are_plain_arithmetic():
    image = np.full((4, 4, 3), [100, 200, 50], np.uint8)
    assert SHIFTS["darker"](image)[0, 0].tolist() == [60, 120, 30]
    assert SHIFTS["brighter"](image)[0, 0].tolist() == [140, 255, 70]
    assert SHIFTS["warmer"](image)[0, 0].tolist() == [120, 200, 40]
    assert SHIFTS["cooler"](image)[0, 0].tolist() == [80, 200, 60]
    assert SHIFTS["grey"](image)[0, 0].tolist() == [153] * 3  # 0.299 R + 0.587 G + 0.114 B


def test_shifts_of_framing_move_what_is_in_the_picture():
    image = np.zeros((70, 70, 3), np.uint8)
    image[30:40, 30:40] = 255  # a square in the middle
    middle = {"farther": 7, "nearer": 14}
    for name, side in middle.items():
        rows = np.flatnonzero(SHIFTS[name](image)[:, 35, 0] > 127)
        assert len(rows) == side and rows.mean() == pytest.approx(34.5, abs=0.5), name
    for name, place in {"crop_top_left": 35 / 0.8, "crop_bottom_right": 21 / 0.8}.items():
        rows, columns = np.nonzero(SHIFTS[name](image)[..., 0] > 127)
        assert (rows.mean(), columns.mean()) == pytest.approx((place - 0.5,) * 2, abs=0.5), name
