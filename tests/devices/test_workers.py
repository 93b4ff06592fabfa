"""Real worker processes on this machine: they train as one, and stop together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.run import Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, str(ROOT / "tools" / "launch_workers")]


def launch(count: int, *command: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    environ["PYTHONFAULTHANDLER"] = "1"  # for `all_said_by`
    pipe = subprocess.PIPE
    started = [*LAUNCH, str(count), "--", *command]
    # A shell starts what runs in the background with Ctrl-C ignored; so it may have started pytest.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            started, env=environ, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
    finally:
        signal.signal(signal.SIGINT, ignored)


def all_said_by(workers: subprocess.Popen[str], seconds: float) -> str:
    """Returns what they print until they end; where they do not, says where each of them stands."""
    try:
        return workers.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        for pid in worker_pids(workers.pid).values():
            os.kill(pid, signal.SIGABRT)
        said = workers.communicate(timeout=120)[0]
        raise AssertionError(f"they hung for {seconds} s:\n{said}") from None


@pytest.fixture
def tree(tmp_path, tiny_backbone) -> dict:
    random = np.random.default_rng(0)
    labels = np.arange(45) % 3
    images = random.normal(110, 30, (45, 32, 32, 3)) + 50 * np.eye(3)[labels][:, None, None, :]
    np.savez(tmp_path / "d.npz", images=images.clip(0, 255).astype(np.uint8), labels=labels)
    return {
        "data": {
            "source": "arrays",
            "path": str(tmp_path / "d.npz"),
            "input": {"size": 32, "augmentation": "none"},
        },
        "backbone": {"name": tiny_backbone},
        "head": {"dropout": 0.0, "start": "random"},  # several workers have no floor
        "phases": [
            {"name": "head", "epochs": 1, "learning_rate": 1e-3},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 1},
        ],
    }


@pytest.mark.parametrize("trunk", ["on", "off"])
def test_two_workers_do_a_whole_run_as_one_would(tree, tmp_path, trunk):
    tree["data"]["batch_size"] = 8  # 33 images: the last batch is one, for two workers
    tree["trunk"] = {"mode": trunk}
    tree["training"] = {"monitor": "val_macro_f1"}  # which the first worker measures for both
    tree["phases"][1]["learning_rate"] = 1e-4  # at ten times this it explodes, rounding with it
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "two"
    workers = launch(2, "ftkeras", "train", f"--config={tmp_path / 'c.yaml'}", f"--out={out}")
    said = all_said_by(workers, 600)
    assert workers.returncode == 0, said
    assert "worker 0 of 2 workers, as TF_CONFIG says; batches of 8 over all, 4 on each" in said
    assert re.search(r"^\[0\] workers   2 have the same weights, digest \w+$", said, re.M)
    assert [line for line in said.splitlines() if line.startswith("[1] phase")] == []
    assert ("trunk     17 examples through" in said) == (trunk == "on")  # its share of 33
    two = Run.open(str(out))
    assert two.read_json("status.json")["state"] == "finished"
    assert (out / "export" / "1" / "saved_model.pb").exists()
    config = parse_config(tree, ["export.saved_model=false"])
    one = ftkeras.train(config, str(tmp_path / "one"))
    for alone, shared in zip(one.metrics(), two.metrics(), strict=True):
        for name in ("loss", "val_loss", "accuracy", "val_accuracy", "val_macro_f1"):
            assert shared[name] == pytest.approx(alone[name], rel=1e-4), name


def test_two_workers_train_on_texts_as_one_would(text_tree, tmp_path):
    tree = {**text_tree, "head": {"dropout": 0.0, "start": "random"}, "trunk": {"mode": "off"}}
    tree["phases"] = [{"name": "all", "train": ["all"], "epochs": 2, "learning_rate": 1e-2}]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "two"
    workers = launch(2, "ftkeras", "train", f"--config={tmp_path / 'c.yaml'}", f"--out={out}")
    said = all_said_by(workers, 600)
    assert workers.returncode == 0, said
    assert "[0] workers   2 have the same weights" in said
    one = ftkeras.train(parse_config(tree, ()), str(tmp_path / "one"))
    for alone, shared in zip(one.metrics(), Run.open(str(out)).metrics(), strict=True):
        for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
            assert shared[name] == pytest.approx(alone[name], rel=1e-4), name


LONG = """
import keras, numpy as np, tensorflow as tf
from ftkeras.errors import TrainingError
from ftkeras.devices.replicas import replicated
from ftkeras.devices.strategy import choose_devices
from ftkeras.devices.workers import agree_on_weights, peers_watched, spread, share_of

devices = choose_devices()
with devices.strategy.scope():
    model = replicated(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    model.compile("sgd", "mse")
data = tf.data.Dataset.from_tensor_slices((np.ones((9, 4)), np.ones((9, 2)))).batch(9)
batches = spread(share_of(data, devices.strategy), devices.strategy)
try:
    with peers_watched(devices):
        model.fit(batches, epochs=2, verbose=0, shuffle=False)
        agree_on_weights(model)
        if devices.is_chief:
            print("training", flush=True)
        model.fit(batches, epochs=1000000, verbose=0, shuffle=False)
except TrainingError as error:
    raise SystemExit(str(error))
"""


def test_a_worker_that_dies_stops_the_others(tmp_path):
    (tmp_path / "long.py").write_text(LONG)
    workers = launch(3, sys.executable, str(tmp_path / "long.py"))
    assert workers.stdout is not None
    said = ""
    for line in workers.stdout:
        said += line
        if "] training" in line:
            os.kill(worker_pids(workers.pid)[1], signal.SIGKILL)
            break
    said += all_said_by(workers, 180)
    assert workers.returncode == 1, said
    assert "[0] workers   3 have the same weights" in said
    assert "launch_workers: worker 1 was ended by signal 9; the others have to stop" in said
    assert "stopping worker" not in said  # they stopped by themselves
    for survivor in (0, 2):
        assert f"[{survivor}] another worker has stopped or cannot be reached" in said


def test_three_workers_go_on_after_one_of_them_died(tree, tmp_path):
    tree["data"]["batch_size"] = 8
    tree["trunk"] = {"mode": "on"}
    tree["phases"][0] |= {"epochs": 3, "learning_rate": 1e-4}
    tree["phases"][1] |= {"epochs": 12, "learning_rate": 1e-5}
    tree |= {"export": {"saved_model": False}, "report": False}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "three"
    command = ["ftkeras", "train", f"--out={out}"]
    workers = launch(3, *command, f"--config={tmp_path / 'c.yaml'}")
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and workers.poll() is None:
        metrics = out / "metrics.jsonl"
        if metrics.exists() and metrics.read_text().count("\n") >= 5:  # in the second phase
            break
        time.sleep(0.2)
    os.kill(worker_pids(workers.pid)[2], signal.SIGKILL)
    said = all_said_by(workers, 180)
    assert workers.returncode == 1, said
    assert "[0] ftkeras: failed: another worker has stopped or cannot be reached" in said
    assert Run.open(str(out)).read_json("status.json")["state"] == "failed"
    again = launch(3, *command)
    said = all_said_by(again, 600)
    assert again.returncode == 0, said
    assert "[0] workers   3 have the same weights" in said
    three = list(Run.open(str(out)).metrics())
    assert [record["epoch"] for record in three] == list(range(15))
    config = parse_config(tree, ())
    one = ftkeras.train(config, str(tmp_path / "one"))
    for alone, shared in zip(one.metrics(), three, strict=True):
        assert shared["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-3)


def worker_pids(launcher: int) -> dict[int, int]:
    """Finds the workers among the launcher's children, by their environment."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            status = (process / "status").read_text()
            environ = (process / "environ").read_text()
        except (OSError, UnicodeDecodeError):
            continue  # no process, or gone meanwhile
        index = re.search(r'"index": (\d+)', environ)
        if f"PPid:\t{launcher}\n" in status and index:
            found[int(index[1])] = int(process.name)
    return found


def test_the_launcher_stops_all_of_them_on_an_interrupt(tmp_path):
    waits = "import time\nprint('up', flush=True)\ntime.sleep(600)"
    with launch(2, sys.executable, "-c", waits) as workers:
        assert workers.stdout is not None
        lines = [workers.stdout.readline(), workers.stdout.readline()]
        assert sorted(lines) == ["[0] up\n", "[1] up\n"]
        workers.send_signal(signal.SIGINT)
        said = workers.communicate(timeout=60)[0]
    assert workers.returncode == 1
    assert "KeyboardInterrupt" in said


def test_the_launcher_says_how_it_is_used():
    done = subprocess.run([*LAUNCH, "2", "ls"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: tools/launch_workers N -- COMMAND")
