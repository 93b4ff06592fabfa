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

from ftkeras.cli.main import run as run_command

CONFIG = """\
data: {source: arrays, path: small.npz, image_size: 32, batch_size: 4, augmentation: none}
backbone: {name: MobileNetV2, weights: starter}
phases: [{name: head, train: [head], epochs: 20, learning_rate: 1e-3}]
trunk: {mode: 'off'}
export: {saved_model: false}
"""

LONG_EPOCH = """\
data: {source: arrays, path: small.npz, image_size: 8, batch_size: 1, augmentation: none,
  split: {val: 0.2, test: null}}
backbone: {name: tiny.keras}
phases: [{name: head, train: [head], epochs: 1, learning_rate: 1e-3}]
training: {checkpoint: {every_minutes: null}, trouble: {explosion: null}}
trunk: {mode: 'off'}
export: {saved_model: false}
report: false
"""


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ftkeras", "train", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, stdout=pipe, stderr=pipe, text=True)


def wait_for(path: Path, deadline: float = 400) -> None:
    end = time.monotonic() + deadline
    while not (path.exists() and path.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)


def wait_for_state(process: subprocess.Popen[str], run: Path) -> list[str]:
    """Returns the names of the states as soon as there is one that is not of the beginning."""
    while process.poll() is None:
        names = sorted(path.name for path in run.glob("checkpoints/state-*.ckpt"))
        if names and names[-1] > "state-00000-00000000.ckpt":
            return names
        time.sleep(0.02)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_what_sigusr1_saved_outlives_sigkill(tmp_path):
    """Nothing else saves within the epoch, which has 4,000 steps."""
    import keras

    images = np.random.default_rng(0).integers(0, 256, (5000, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "small.npz", images=images, labels=np.arange(5000) % 2)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)  # raw pixels would make the loss leap
    keras.Model(inputs, keras.layers.Conv2D(4, 3)(x)).save(tmp_path / "tiny.keras")
    (tmp_path / "c.yaml").write_text(LONG_EPOCH)
    run = tmp_path / "run"

    first = start(tmp_path, "--config=c.yaml", "--out=run")
    wait_for(run / "checkpoints" / "state-00000-00000000.ckpt")
    os.kill(first.pid, signal.SIGUSR1)
    names = wait_for_state(first, run)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (run / "metrics.jsonl").exists()
    steps = int(names[-1].removesuffix(".ckpt").rpartition("-")[2])
    assert len(names) == 2 and 0 < steps < 4000

    again = start(tmp_path, "--out=run")
    output, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert f"resumed   epoch 1, step {steps + 1}" in output
    [record] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert record["epoch"] == 0


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
    assert errors.endswith("\nftkeras: stopped by SIGTERM\n")
    assert "stopped   ftkeras train --out=run resumes from here" in output
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


def test_a_request_to_save_that_comes_too_early_ends_nothing(capsys):
    heard = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in heard]
    try:
        with pytest.raises(SystemExit):
            run_command(["--version"])
        signal.raise_signal(signal.SIGUSR1)  # its default would end this process
    finally:
        for number, handler in zip(heard, before, strict=True):
            signal.signal(number, handler)
