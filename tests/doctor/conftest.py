"""Small data sets of smooth, distinct colour images, clean and with planted faults."""

from __future__ import annotations

from pathlib import Path

import pytest

COUNTS = {"train": 30, "val": 20, "test": 20}


@pytest.fixture(scope="session")
def make_photos(new_photo):
    """Makes a clean folder: train/, val/ and test/ with the classes cat, dog and emu."""

    def make(root: Path) -> Path:
        seed = 0
        for split, count in COUNTS.items():
            for name in ("cat", "dog", "emu"):
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    new_photo(seed).save(root / split / name / f"{i}.png")
                    seed += 1
        return root

    return make
