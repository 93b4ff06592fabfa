"""Small data sets of smooth, distinct colour images, clean and with planted faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COUNTS = {"train": 30, "val": 20, "test": 20}


def photo(seed: int, width: int = 56, height: int = 48) -> Image.Image:
    """An image as smooth as a photo; another seed gives quite another one."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


@pytest.fixture(scope="session")
def make_photos():
    """Makes a clean folder: train/, val/ and test/ with the classes cat, dog and emu."""

    def make(root: Path) -> Path:
        seed = 0
        for split, count in COUNTS.items():
            for name in ("cat", "dog", "emu"):
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    photo(seed).save(root / split / name / f"{i}.png")
                    seed += 1
        return root

    return make


@pytest.fixture(scope="session")
def new_photo():
    """Makes one more image, of any size."""
    return photo
