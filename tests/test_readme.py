"""The README's Python examples run as written, but for sizes and lengths."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path, monkeypatch) -> dict[str, np.ndarray]:
    """A folder of photos where the examples run, and arrays as they name them."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    images = random.uniform(0, 255, (8, 96, 96, 3)).astype("float32")
    return {"images": images, "labels": np.arange(8) % 10}


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined or non-square")
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number, photos):
    code = EXAMPLES[number].replace("epochs=5", "epochs=1").replace("epochs=2", "epochs=1")
    names = dict(photos)
    exec(compile(code.replace("160", "64"), f"README example {number}", "exec"), names)
    assert set(names["unfreeze"].verdicts) == {phase.name for phase in names["unfreeze"].phases}


def test_there_are_examples():
    assert len(EXAMPLES) == 2


def test_every_section_is_in_the_contents():
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    links = [f"[{name}](#{name.lower().replace(' ', '-')})" for name in headings]
    assert [link for link in links if link not in README] == []
