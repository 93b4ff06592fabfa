"""A run that is told to save, then to stop, and goes on: as a scheduler does it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

CONFIG = """\
data: {source: arrays, path: small.npz, image_size: 32, batch_size: 4, augmentation: none}
backbone: {name: MobileNetV2, weights: starter}
phases: [{name: head, train: [head], epochs: 20, learning_rate: 1e-3}]
trunk: {mode: 'off'}
export: {saved_model: false}
"""


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ftkeras", "train", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, stdout=pipe, stderr=pipe, text=True)


def wait_for(path: Path, deadline: float = 400) -> None:
    end = time.monotonic() + deadline
    while not (path.exists() and path.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_preempted_run_goes_on_and_no_other_config_does(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (24, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "small.npz", images=images, labels=np.arange(24) % 2)
    (tmp_path / "c.yaml").write_text(CONFIG)
    run = tmp_path / "run"

    first = start(tmp_path, "--config=c.yaml", "--out=run")
    wait_for(run / "metrics.jsonl")
    os.kill(first.pid, signal.SIGUSR1)
    os.kill(first.pid, signal.SIGTERM)
    output, errors = first.communicate(timeout=300)
    assert first.returncode == 75, errors
    assert "stopped by SIGTERM; the same command goes on" in errors
    assert "Traceback" not in errors
    assert json.loads((run / "status.json").read_text())["state"] == "preempted"

    other = start(tmp_path, "--config=c.yaml", "--out=run", "--set=seed=5")
    _, errors = other.communicate(timeout=300)
    assert other.returncode == 2
    assert "seed: 0 -> 5" in errors and len(errors.strip().splitlines()) == 1

    again = start(tmp_path, "--out=run")
    output, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert "resumed   epoch" in output
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(20))
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert not list((run / "checkpoints").glob("state-*"))
