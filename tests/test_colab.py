"""The Colab notebook's cells run one after the other, at tiny settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = (
    '["data.input.size=32", "data.batch_size=200", "phases[0].epochs=1", "phases[1].epochs=1", '
    '"backbone.cut=block_4_add"]'
)
NO_NOTEBOOK = """
import sys, types
shown = types.ModuleType("IPython.display")
shown.SVG, shown.display = str, print
sys.modules.update({"IPython": types.ModuleType("IPython"), "IPython.display": shown})
"""


@pytest.mark.slow
def test_the_notebook_fine_tunes_plots_and_exports(tmp_path):
    notebook = json.loads((ROOT / "tools" / "colab.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    install, *cells = cells
    assert "%pip install" in install
    script = NO_NOTEBOOK + "\n".join(cells).replace("OVERRIDES = []", f"OVERRIDES = {TINY}")
    assert TINY in script
    (tmp_path / "cells.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "<svg" in done.stdout
    assert "test accuracy 0." in done.stdout
    assert (tmp_path / "garments-export.zip").stat().st_size > 0
    assert (tmp_path / "garments" / "export" / "1" / "saved_model.pb").exists()
