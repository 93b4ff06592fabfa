"""The kill harness: a few real kills, and the moments that it knows."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[3] / "tools" / "kill_harness.py"


def moments() -> dict[str, tuple[str, int]]:
    for node in ast.parse(HARNESS.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "MOMENTS":
            return ast.literal_eval(node.value)
    raise AssertionError("no MOMENTS")


@pytest.mark.parametrize("moment", moments())
def test_the_function_of_each_moment_exists(moment):
    module, _, name = moments()[moment][0].partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)


@pytest.mark.slow
def test_runs_that_are_stopped_again_and_again_end_with_the_same_weights_and_record(tmp_path):
    """Two of each signal, with and without a stored trunk: three in each of two runs."""
    moments = "first validation,step being traced"
    arguments = ["--kills=6", "--per-run=3", f"--moments={moments}", f"--folder={tmp_path}"]
    done = subprocess.run(
        [sys.executable, HARNESS, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 stops in 2 runs: 2 ended equal, 0 did not" in done.stdout
    for config in ("augmented", "stored"):
        for number in ("SIGKILL", "SIGINT", "SIGTERM"):
            assert f" | {config} | {number} | at: " in done.stdout
