"""The notebooks' cells run one after the other, at tiny settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = {
    "images": ["data.input.size=32", "data.batch_size=200", "backbone.cut=block_4_add"],
    "texts": ["backbone.recurrent.units=8", "data.batch_size=200", "export.saved_model=false"],
}
"""Overrides of each notebook's config. One of them is exported."""
NO_NOTEBOOK = """
import sys, types
shown = types.ModuleType("IPython.display")
shown.SVG, shown.display = str, print
sys.modules.update({"IPython": types.ModuleType("IPython"), "IPython.display": shown})
"""


def run_cells(name: str, folder: Path) -> str:
    """Runs a notebook's code in a fresh process, except what installs; returns what it printed."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    install, *cells = cells
    assert "%pip install" in install
    tiny = json.dumps([*TINY[name], "phases[0].epochs=1", "phases[1].epochs=1"])
    script = NO_NOTEBOOK + "\n".join(cells).replace("OVERRIDES = []", f"OVERRIDES = {tiny}")
    assert tiny in script
    (folder / "cells.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_notebook_of_images_fine_tunes_plots_and_exports(tmp_path):
    printed = run_cells("images", tmp_path)
    assert "<svg" in printed and "test accuracy 0." in printed
    assert (tmp_path / "garments-export.zip").stat().st_size > 0
    assert (tmp_path / "garments" / "export" / "1" / "saved_model.pb").exists()


@pytest.mark.slow
def test_the_notebook_of_texts_fine_tunes_plots_and_answers(tmp_path):
    printed = run_cells("texts", tmp_path)
    assert "<svg" in printed and "test accuracy 0." in printed
    assert "a large animal with black stripes: animal (" in printed
    assert (tmp_path / "definitions-run.zip").stat().st_size > 0
