"""tools/device_check, as far as a CPU can run it; docs/distributed.md lists what it did there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "device_check"


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tool():
    loader = SourceFileLoader("device_check", str(TOOL))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("device_check", loader)
    )
    sys.modules["device_check"] = module  # dataclasses look their module up
    loader.exec_module(module)
    yield module
    del sys.modules["device_check"]


@pytest.mark.slow
def test_checks_on_the_cpu_print_a_line_each_and_write_their_figures(tmp_path):
    out = tmp_path / "checks.json"
    done = check("--cpu", "--only=devices,overflow", f"--out={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.startswith("devices     pass  CPU; TensorFlow ")
    assert second.startswith("overflow    pass  float16: loss scale 32768 -> 16384 -> 16384, ")
    assert last.startswith("2 of 2 passed in ")
    record = json.loads(out.read_text())
    assert record["passed"] and [row["name"] for row in record["checks"]] == ["devices", "overflow"]
    assert record["checks"][1]["figures"]["moved"] == [True, False, True]


@pytest.mark.slow
def test_without_a_gpu_it_fails_unless_the_cpu_is_asked_about(tmp_path):
    out = tmp_path / "checks.json"
    done = check("--only=devices", f"--out={out}")
    assert done.returncode == 1
    assert done.stdout.startswith("devices     FAIL  no GPU; --cpu checks the CPU; ")
    assert not json.loads(out.read_text())["passed"]


def test_a_check_that_is_not_there_is_named():
    done = check("--only=devices,speeed")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such check: speeed. Checks: devices, quickstart, " in done.stderr


def test_what_differs_or_ends_early_or_comes_too_late_fails(tool, monkeypatch):
    one = [np.array([1.0, -2.0]), np.array([0.5])]
    assert tool.compared("replica", "same", one, one).passed
    other = [one[0] * (1 + 2 * tool.TOLERANCE), one[1]]
    assert not tool.compared("replica", "other", one, other).passed
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(
        command, -6, stdout="", stderr="F0000 a.cc:1] first\nCheck failed\n"))  # fmt: skip
    [row] = tool.run("speed", True, 10.0)
    assert (row.passed, row.text) == (False, "ended with status -6: Check failed")
    [row] = tool.run("speed", True, 0.0)
    assert (row.passed, row.text) == (False, "not run: 480 s are over")
