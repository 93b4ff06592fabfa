"""Real image files, made on the spot."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FTKERAS_CACHE", str(folder))
    return folder


@pytest.fixture
def photo() -> Callable[..., np.ndarray]:
    """Makes uint8 pixels (h, w, channels) that are smooth, like a photo, and differ by seed."""

    def make(height: int = 40, width: int = 60, channels: int = 3, seed: int = 0) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, channels), dtype=np.uint8)
        planes = [
            np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), Image.BICUBIC))
            for c in range(channels)
        ]
        return np.stack(planes, axis=-1)

    return make


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Encodes a Pillow image or an array in a format."""

    def make(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(stream, kind, **options)
        return stream.getvalue()

    return make


@pytest.fixture
def make_folder(tmp_path: Path, photo: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Makes a folder of PNG files: {"cat": 3} gives cat/0.png to cat/2.png."""

    def make(counts: dict[str, int], name: str = "photos", size: int = 12) -> Path:
        for number, (place, count) in enumerate(counts.items()):
            folder = tmp_path / name / place
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = photo(size, size, seed=1000 * number + i)
                Image.fromarray(pixels).save(folder / f"{i}.png")
        return tmp_path / name

    return make
