"""The notebooks' cells run one after the other, at tiny settings."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["data.batch_size=200", "export.saved_model=false"]  # tests/test_tutorials.py exports
CASES = {
    "images": (
        ["data.input.size=32", "backbone.cut=block_4_add", "phases.epochs=2"],
        "test accuracy 0.",
        "garments",
    ),
    "texts": (
        ["backbone.recurrent.units=8", "phases[0].epochs=1", "phases[1].epochs=1"],
        "black stripes: animal (0.",
        "definitions",
    ),
}
"""By notebook: more overrides of its config, what it prints, the folder of its run."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_notebook_fine_tunes_plots_and_answers(name, tmp_path, monkeypatch):
    small, answer, run = CASES[name]
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    install, *cells = cells
    assert "%pip install" in install
    code = "\n".join(cells)
    assert "OVERRIDES = []" in code
    shown = types.ModuleType("IPython.display")
    vars(shown).update(SVG=str, display=print)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code.replace("OVERRIDES = []", f"OVERRIDES = {small + SMALL}"), {})
    assert "<svg" in printed.getvalue() and answer in printed.getvalue()
    assert (tmp_path / f"{run}-run.zip").stat().st_size > 0
    assert (tmp_path / run / "report.html").exists()
