"""Trouble outside, for real: a full disk, a locked folder, a lost file, too little memory.

Each run is a process of its own, in which something happens once two epochs are trained.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import os, resource, sys
from ftkeras.cli.quiet import import_tensorflow
import_tensorflow()
from ftkeras.cli.main import main
from ftkeras.training.callbacks.record import EpochRecord
then = EpochRecord.on_epoch_end

def on_epoch_end(self, epoch, logs=None):
    then(self, epoch, logs)
    if epoch == 1:
        trouble()

EpochRecord.on_epoch_end = on_epoch_end
{happens}
sys.exit(main(sys.argv[1:]))
"""

CONFIG = """\
data: {source: folder, path: photos, batch_size: 4, input: {augmentation: none}, cache: none}
backbone: {name: tiny.keras}
phases: [{name: all, train: [all], epochs: 4, learning_rate: 1e-3}]
export: {saved_model: false}
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that anybody may enter, with photos, a small model and a config."""
    import keras

    with tempfile.TemporaryDirectory(prefix="ftkeras-trouble-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        random = np.random.default_rng(0)
        for kind in ("cat", "dog"):
            (folder / "photos" / kind).mkdir(parents=True)
            for i in range(12):
                pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / kind / f"{i}.png")
        image = keras.Input((16, 16, 3))
        keras.Model(image, keras.layers.Conv2D(64, 5, strides=2)(image)).save(folder / "tiny.keras")
        (folder / "c.yaml").write_text(CONFIG)
        yield folder


def train(
    place: Path, happens: str, *flags: str, out: str = "run", before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        **{"PYTHONPATH": str(ROOT), "HOME": str(place), "FTKERAS_CACHE": str(place / "cache")},
        **{"KERAS_HOME": str(place / "keras"), "PYTHONDONTWRITEBYTECODE": "1"},
    }
    command = [sys.executable, "-c", CHILD.format(happens=happens), "train", "--config=c.yaml"]
    return subprocess.run(
        [*before, *command, f"--out={out}", *flags],
        cwd=place, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a run ends, under the lines of its progress."""
    assert done.returncode == 1, done.stderr
    *progress, line = done.stderr.strip().splitlines()
    assert line.startswith("ftkeras: failed: "), done.stderr
    known = ("fit the floor", "all, epoch", "training:", "saving")
    assert all(text.startswith(known) for text in progress), progress
    return line


def check_earned(run: Path, place: Path) -> None:
    """What two epochs earned is whole: their record, and weights that load."""
    from ftkeras.state_file import read_state

    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records[:2]] == [0, 1]
    for kind in ("best-*.ckpt", "state-*.ckpt"):
        found = list((run / "checkpoints").glob(kind))
        assert found and all(read_state(str(path)) for path in found)
    json.loads((run / "plan.json").read_text())


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="ftkeras-disk-")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    try:
        if mounted.returncode:
            pytest.skip("this user may not mount a small disk")
        yield Path(folder)
    finally:
        subprocess.run(["umount", folder], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_full_disk(place):
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    with small_disk("4m") as disk:
        run = disk / "run"
        fill = f"""
def trouble():
    free = os.statvfs({str(disk)!r}).f_bavail * os.statvfs({str(disk)!r}).f_bsize
    with open({str(disk / "ballast")!r}, "wb") as file:
        file.write(bytes(free - 20_000))
"""
        line = one_line(train(place, fill, f"--out={run}"))
        assert "no space is left" in line and "error.txt" in line
        status = json.loads((run / "status.json").read_text())
        assert status["state"] == "failed" and "no space is left" in status["error"]
        assert "Traceback" in (run / "error.txt").read_text()
        check_earned(run, place)


def test_a_folder_that_turns_read_only(place):
    # Nothing is read-only to root, unless it gives that right up.
    before = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") * (os.getuid() == 0)
    if before and shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv command")
    lock = """
def trouble():
    for folder in ("run/checkpoints", "run"):
        os.chmod(folder, 0o555)
"""
    line = one_line(train(place, lock, before=before))
    assert "may not be written" in line and "Permission denied" in line
    kept = Path(line.partition("The traceback is in ")[2].rstrip("."))
    assert "Traceback" in kept.read_text()
    kept.unlink()
    check_earned(place / "run", place)


@pytest.mark.parametrize("how", ["remove(path)", "truncate(path, 60)"])
def test_a_photo_lost_after_the_scan(place, how):
    lost = f"""
def trouble():
    path = "photos/cat/7.png"
    os.{how}
"""
    split = ["--set=data.split={val: 0, test: 0}", "--set=training.monitor=accuracy"]
    line = one_line(train(place, lost, *split))
    assert "data: cat/7.png cannot be read any more" in line
    status = json.loads((place / "run" / "status.json").read_text())
    assert status["state"] == "failed" and "cat/7.png" in status["error"]
    check_earned(place / "run", place)


LIMIT = """
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (2500 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

def trouble():
    import tensorflow as tf
    tf.zeros((1 << 20, 1 << 12))
"""


def test_a_tensor_that_the_memory_cannot_hold(place):
    line = one_line(train(place, LIMIT))
    assert "the memory is used up. data.batch_size is 4; about 2 would fit" in line
    check_earned(place / "run", place)


def test_the_batch_size_that_fits_is_told_beforehand_and_does(place):
    large = ["--set=data.input.size=1280", "--set=phases[0].epochs=1"]
    done = train(place, LIMIT, *large, "--set=data.batch_size=16")
    assert done.returncode != 0
    advice = re.search(r"data.batch_size is 16; about .* --set (data.batch_size=\d+)", done.stdout)
    assert advice is not None, done.stdout
    done = train(place, LIMIT, *large, f"--set={advice[1]}", "--overwrite")
    assert done.returncode == 0, done.stderr
