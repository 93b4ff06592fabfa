"""The fuzzer, with a few cases of a fixed seed; tools/fuzz.py runs thousands of any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[2] / "tools" / "fuzz.py"


@pytest.mark.slow
def test_a_few_cases_end_well(tmp_path):
    flags = ["--configs=100", "--images=60", "--bind=2", "--seed=1", f"--keep={tmp_path}/kept"]
    done = subprocess.run(
        [sys.executable, str(FUZZ), *flags], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "configs and command lines: 100 in" in done.stdout
    assert "files: 60 in" in done.stdout


@pytest.mark.slow
def test_an_exported_model_lives_through_damaged_files_of_every_kind(tmp_path):
    """One process answers all requests: a process that ends is a failure, and keeps its files."""
    flags = ["--configs=0", "--images=0", "--served=500", "--seed=1", f"--keep={tmp_path}/kept"]
    done = subprocess.run(
        [sys.executable, str(FUZZ), *flags], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "requests: 50 in" in done.stdout and "50 request answered" in done.stdout
