"""Case 22: files that can be read, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, features

from ftkeras import load_data
from ftkeras.data.dataset import Data
from ftkeras.inputs.image.decode import whole
from ftkeras.inputs.image.scan import examine


def load(folder: Path, kind: str, suffix: str) -> Data:
    """Fills a folder with images of one kind under one suffix, 8 of 2 classes, and loads it."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(4):
            image = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
            image.save(folder / name / f"{i}{suffix}", kind)
    return load_data("folder", path=str(folder))


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("PNG", ".jpg"), ("GIF", ".jpg"), ("JPEG", ".png"), ("WEBP", ".jpeg"), ("BMP", ".gif")],
)
def test_a_wrong_suffix_is_read_by_content_and_noted(tmp_path, kind, suffix):
    """Source: tensorflow/models 2194: PNG and GIF files that are called .jpg."""
    data = load(tmp_path, kind, suffix)
    assert not data.bad_files
    assert sum(map(len, data.splits.values())) == 8
    assert any(kind in note for note in data.notes)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("TIFF", ".tif"),
        ("TIFF", ".tiff"),
        pytest.param(
            "AVIF",
            ".avif",
            marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF"),
        ),
    ],
)
def test_what_pillow_reads_is_read(tmp_path, kind, suffix):
    """Source: seen on version 0.1, beside tensorflow/models 2194."""
    data = load(tmp_path, kind, suffix)
    assert not data.bad_files
    assert sum(map(len, data.splits.values())) == 8
    assert whole(data.splits["train"].fetch(0)).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "PPM"])
def test_pixels_are_what_pillow_shows(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(4):
            image = Image.fromarray(pixels)
            options = {"irreversible": False} if kind == "JPEG2000" else {}
            image.save(tmp_path / name / f"{i}.jpg", kind, **options)
    data = load_data("folder", path=str(tmp_path))
    np.testing.assert_array_equal(whole(data.splits["train"].fetch(0)), pixels)
    assert f"8 x content is {kind}, but the name says .jpg ({tmp_path}/cat/0.jpg, " in data.notes[0]
    assert load_data("folder", path=str(tmp_path)).notes == data.notes  # the scan is remembered


@pytest.mark.parametrize("mode", ["I;16", "CMYK", "RGBA", "L", "1"])
def test_other_modes_of_tiff_are_read_upright(tmp_path, mode):
    """The orientation says that the first row is the right side."""
    grey = np.zeros((16, 24), np.uint8)
    grey[0] = 255
    image = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert("RGB").convert(mode)
    image.save(tmp_path / "a.tif", "TIFF", tiffinfo={274: 6})
    verdict = examine(str(tmp_path / "a.tif"), (tmp_path / "a.tif").read_bytes(), f"tiff-{mode}")
    shown = whole(tf.io.read_file(verdict.path)).numpy()
    assert shown.shape == (24, 16, 3)
    assert (shown[:, -1] > 250).all() and (shown[:, :-1] < 5).all()


def test_pixels_with_fractions_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tif")
    verdict = examine("a.tif", (tmp_path / "a.tif").read_bytes(), "fractions")
    assert verdict.reason == "pixels with fractions: save it with 8 or 16 bits"
