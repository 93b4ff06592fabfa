"""The Python examples of README.md and docs/ run as written, except for sizes and lengths."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = [
    (f"{page.relative_to(ROOT)}:{number}", code)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]

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
@pytest.mark.parametrize(("place", "code"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_example(place, code, photos):
    code = code.replace("epochs=5", "epochs=1").replace("epochs=2", "epochs=1")
    names = dict(photos)
    exec(compile(code.replace("160", "64"), place, "exec"), names)
    if "StagedUnfreezing" in code:
        assert set(names["unfreeze"].verdicts) == {phase.name for phase in names["unfreeze"].phases}


def test_there_are_examples():
    places = [place for place, _ in EXAMPLES]
    assert places == ["README.md:0", "docs/distributed.md:0", "docs/own_script.md:0"]
