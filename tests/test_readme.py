"""The Python examples of README.md and docs/ run as written, except for sizes and lengths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {
    str(page.relative_to(ROOT)): codes
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if not page.name.startswith("tutorial_")  # tests/test_tutorials.py
    if (codes := re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
}

_SHORT = ["phases[1].epochs=2", "backbone.recurrent.units=4", "export.saved_model=false"]
_SHORT_IMAGES = ["phases.epochs=2", "backbone.cut=block_4_add", "export.saved_model=false"]
pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path, monkeypatch) -> None:
    """A folder of photos and a table, in which the examples run."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder in ("photos/cat", "photos/dog", "holiday"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.jpg")
    rows = "".join(
        f"{review},{label}\n" for review, label in [("a joy", "good"), ("bad", "poor")] * 20
    )
    (tmp_path / "reviews.csv").write_text("review,label\n" + rows)
    (tmp_path / "configs").symlink_to(ROOT / "configs")


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined or non-square")
@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_of_a_page_run_one_after_the_other(page, photos):
    names: dict[str, Any] = {}
    for number, code in enumerate(EXAMPLES[page]):
        code = code.replace("epochs=5", "epochs=1").replace("epochs=2", "epochs=1")
        code = (
            code.replace("160", "64")
            .replace('"data.input.column', f'*{_SHORT}, "data.input.column')
            .replace('"data.path=photos/', f'*{_SHORT_IMAGES}, "data.path=photos/')
            .replace("initial_epoch=3", "initial_epoch=1")
            .replace('splits["train"]', 'splits["train"].take([*range(8)])')
        )
        exec(compile(code, f"{page}:{number}", "exec"), names)
        if "StagedUnfreezing" in code:
            phases = [phase.name for phase in names["unfreeze"].phases]
            ran = phases[1:] if "initial_epoch" in code else phases
            assert list(names["unfreeze"].verdicts) == ran


def test_there_are_examples():
    counts = {page: len(codes) for page, codes in EXAMPLES.items()}
    assert counts == {
        "README.md": 2,
        "docs/distributed.md": 1,
        "docs/inputs.md": 1,
        "docs/own_script.md": 4,
    }
