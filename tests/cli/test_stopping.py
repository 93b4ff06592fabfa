"""A run that gets signals to save, then to stop, and resumes: as a scheduler does it."""

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

LONG_EPOCH = """\
data: {source: arrays, path: small.npz, input: {size: 8, augmentation: none}, batch_size: 1,
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
def test_what_sigusr1_saved_outlives_sigkill_and_sigterm_and_no_other_config_resumes_it(tmp_path):
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
    steps = steps_of(names[-1])
    assert len(names) == 2 and 0 < steps < 4000

    second = start(tmp_path, "--out=run")
    wait_for(run / "events.jsonl")  # it has resumed
    os.kill(second.pid, signal.SIGUSR1)
    os.kill(second.pid, signal.SIGTERM)
    output, errors = second.communicate(timeout=300)
    assert second.returncode == 75, errors
    assert f"resumed   epoch 1, step {steps + 1}" in output
    assert "stopped   ftkeras train --out=run resumes from here" in output
    assert errors.endswith("\nftkeras: stopped by SIGTERM\n") and "Traceback" not in errors
    assert json.loads((run / "status.json").read_text())["state"] == "preempted"
    steps = max(steps_of(path.name) for path in run.glob("checkpoints/state-*.ckpt"))

    other = start(tmp_path, "--config=c.yaml", "--out=run", "--set=seed=5")
    _, errors = other.communicate(timeout=300)
    assert other.returncode == 2
    assert "seed: 0 -> 5" in errors and len(errors.strip().splitlines()) == 1

    again = start(tmp_path, "--out=run")
    output, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert f"resumed   epoch 1, step {steps + 1}" in output
    [record] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert record["epoch"] == 0
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert not list((run / "checkpoints").glob("state-*"))


def steps_of(name: str) -> int:
    """Returns after how many steps a state was saved."""
    return int(name.removesuffix(".ckpt").rpartition("-")[2])


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


AT_THE_IMPORT = """
import os, signal, sys
from ftkeras.cli import quiet
from ftkeras.cli.main import run

def stopped_import():
    try:
        exec("os.kill(os.getpid(), signal.{signal})")  # as imports do, for a dataclass say
    except KeyboardInterrupt:
        if {swallowed}:
            raise ImportError("numpy.core.multiarray failed to import") from None
        raise

quiet.import_tensorflow = stopped_import
run([{verb!r}, *{arguments!r}])
"""


@pytest.mark.parametrize(
    ("verb", "arguments", "name", "swallowed"),
    [
        ("train", ["--out=run"], "SIGINT", False),
        ("train", ["--out=run"], "SIGTERM", True),
        ("evaluate", ["run"], "SIGTERM", False),
        ("predict", ["run", "a.jpg"], "SIGINT", True),
    ],
)
def test_a_signal_while_tensorflow_is_imported_has_its_exit_status(
    tmp_path, verb, arguments, name, swallowed
):
    script = AT_THE_IMPORT.format(signal=name, swallowed=swallowed, verb=verb, arguments=arguments)
    done = run_script(tmp_path, script)
    expected = {
        "SIGINT": (130, "ftkeras: interrupted"),
        "SIGTERM": (75, "ftkeras: stopped by SIGTERM"),
    }
    assert (done.returncode, done.stderr.strip()) == expected[name]
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_after_all_is_done_changes_nothing(tmp_path, name):
    script = (
        "import atexit, os, signal; from ftkeras.cli.main import run;"
        f"atexit.register(os.kill, os.getpid(), signal.{name}); run(['--version'])"
    )
    done = run_script(tmp_path, script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def run_script(place: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as `python -m ftkeras` is run, which can end by a signal of its own."""
    (place / "script.py").write_text(script)
    command = [sys.executable, "-m", "script"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
