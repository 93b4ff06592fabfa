"""Small folders of real image files, for tasks that classify."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

COLOURS = {"blue": (60, 90, 200), "green": (70, 160, 90), "red": (190, 80, 70)}


@pytest.fixture(scope="session")
def coloured_photos(tmp_path_factory, tiny_backbone) -> Callable[[list[str], float], Path]:
    """Makes a folder for each class, named as its colour, with 20 images; the backbone beside them.

    The colours of images differ by a standard deviation.
    """
    import numpy as np
    from PIL import Image

    def make(names: list[str], deviation: float) -> Path:
        folder = tmp_path_factory.mktemp("data") / "photos"
        folder.mkdir()
        shutil.copy(tiny_backbone, folder.with_name("tiny.keras"))
        for number, name in enumerate(names):
            (folder / name).mkdir()
            for i in range(20):
                random = np.random.default_rng(100 * number + i)
                colour = np.array(COLOURS[name]) + random.normal(0, deviation, 3)
                pixels = colour + random.normal(0, 25, (40, 40, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(folder / name / f"{i}.png")
        return folder

    return make
