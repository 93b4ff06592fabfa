"""What differs with oneDNN's kernels, which TensorFlow takes by itself where a CPU has AVX-512."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# Frontiers and what trains from them, and an export that is proved.
MODULES = ("trunk/test_extract.py", "export/test_saved_model.py")


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_all_holds_with_onednn(module):
    """In a process of its own: the choice is made when TensorFlow is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / module)]
    environ = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"}
    for name in [name for name in environ if name.startswith("PYTEST_")]:
        del environ[name]  # of the process that runs this
    done = subprocess.run(
        command, env=environ, cwd=HERE.parent, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout + done.stderr
