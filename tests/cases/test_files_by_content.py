"""Case 22: files that can be read, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from ftkeras import UserError, load_data
from ftkeras.data.dataset import Data
from ftkeras.inputs.image.decode import whole


def load(folder: Path, kind: str, suffix: str) -> Data:
    """Fills a folder with images of one kind under one suffix, 8 of 2 classes, and loads it."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(4):
            image = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
            image.save(folder / name / f"{i}{suffix}", kind)
    return load_data("folder", path=str(folder))


@pytest.mark.xfail(
    strict=True, raises=UserError, reason="case 22: a readable file is refused for its suffix"
)
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


@pytest.mark.xfail(
    strict=True, raises=UserError, reason="case 22: TIFF and AVIF are refused, though Pillow reads"
)
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
