"""Folders of real image files, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> None:
    """No test sees what another has cached."""


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
