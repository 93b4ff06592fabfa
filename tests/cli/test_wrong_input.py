"""Wrong input, as a person would give it: one clear line, status 2, nothing half-written."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftkeras.cli.main import main

CONFIG = """\
data: {{source: folder, path: photos, input: {{size: 32}}, batch_size: 4}}
backbone: {{name: {backbone}}}
phases: [{{name: head, train: [head], epochs: 1, learning_rate: 1e-3}}]
export: {{saved_model: false}}
report: false
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ftkeras", *arguments]
    # The tests' own log level would let through what the command silences by default.
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, stdout=pipe, stderr=pipe, text=True, env=environment
    )


def ftkeras(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments)
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def photos(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 8) -> None:
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch, tiny_backbone) -> Path:
    """The working folder, with a config and photos that would work."""
    photos(tmp_path / "photos")
    (tmp_path / "c.yaml").write_text(CONFIG.format(backbone=tiny_backbone))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(place, capfd) -> Callable[..., str]:
    """A function that checks how a command line is refused, and returns its one line.

    It runs in this process, which has TensorFlow already; `capfd` also hears what C++ says.
    """

    def run(*arguments: str) -> str:
        before = sorted(place.rglob("*"))
        capfd.readouterr()
        status = main(arguments)
        out, errors = capfd.readouterr()
        assert (status, out) == (2, ""), errors
        return line_of(errors, place, before)

    return run


@pytest.fixture
def train_refused(refused) -> Callable[..., str]:
    """The same of `ftkeras train` with the config that would work."""
    return functools.partial(refused, "train", "--config=c.yaml", "--out=run")


def line_of(errors: str, place: Path, before: list[Path]) -> str:
    """Checks that an error is one line, and that nothing was written; returns the line."""
    # On a slow machine the scan may take long enough to show its progress.
    lines = [line for line in errors.strip().splitlines() if not line.startswith("scan: ")]
    assert len(lines) == 1, errors
    assert lines[0].startswith("ftkeras: error: ")
    assert sorted(place.rglob("*")) == before
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "Did you mean 'train'?"),  # before TensorFlow is imported
        (["train", "--config=c.yaml", "--set=phases[0].train=blocks[40:]"], "selects nothing"),
        (["train", "--config=c.yaml", "--set=data.path=one"], "'cat'"),
    ],
    ids=["no such verb", "a wrong phase", "wrong data"],
)
def test_the_command_itself_is_silent_but_for_its_line(place, arguments, part):
    """In a process of its own: the exit status, and no word of TensorFlow's while it loads."""
    photos(place / "one", ("cat",))
    before = sorted(place.rglob("*"))
    done = ftkeras(place, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert part in line_of(done.stderr, place, before)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["data.pth=photos"], ["--set: data.pth: no such field", "Did you mean 'path'?"]),
        (["phases[0].epochs=many"], ["phases[0].epochs", "integer", "'many'"]),
        (["data.path=missing"], ["missing"]),
        (["phases[0].train=block:blok_3"], ["'block:blok_3'", "Did you mean 'block_3'?"]),
        (["phases[0].train=blocks[40:]"], ["blocks[40:]", "selects nothing"]),
        (["data.input.size=16", "backbone.name=MobileNetV2"], ["16", "32"]),
        (["backbone.name=MobileNetV4"], ["MobileNetV4", "Did you mean 'MobileNetV"]),
        (["backbone.weights=other.weights.h5"], ["other.weights.h5"]),
        (["training.monitor=val_acuracy"], ["training.monitor", "Did you mean 'val_accuracy'?"]),
        (["training.monitor=val_macro_f2"], ["training.monitor", "Did you mean 'val_macro_f1'?"]),
        (["loss.name=cross_entropi"], ["loss.name", "Did you mean 'cross_entropy'?"]),
    ],
    ids=lambda value: value[0].split("=")[0] if "=" in value[0] else "",
)
def test_a_wrong_field(train_refused, overrides, parts):
    line = train_refused(*(f"--set={override}" for override in overrides))
    for part in parts:
        assert part in line


def test_an_empty_folder(place, train_refused):
    (place / "empty").mkdir()
    assert "empty" in train_refused("--set=data.path=empty")


def test_one_class_only(place, train_refused):
    photos(place / "one", ("cat",))
    assert "'cat'" in train_refused("--set=data.path=one")


def test_a_folder_without_images(place, train_refused):
    for name in ("a", "b"):
        (place / "texts" / name).mkdir(parents=True)
        (place / "texts" / name / "notes.txt").write_text("hello")
    assert "texts" in train_refused("--set=data.path=texts")


def test_a_label_that_training_lacks(place, train_refused):
    photos(place / "parts" / "train")
    photos(place / "parts" / "test", ("cat", "dog", "emu"))
    assert "'emu'" in train_refused("--set=data.path=parts")


def test_weights_that_do_not_fit(place, train_refused):
    import keras

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(
        place / "dense.weights.h5"
    )
    line = train_refused("--set=backbone.weights=dense.weights.h5")
    assert "dense.weights.h5" in line


def test_an_output_that_cannot_be_written(place, train_refused):
    (place / "file").write_text("")
    assert "file/run" in train_refused("--out=file/run")


def test_an_error_about_out_says_that_it_was_left_out(place, refused):
    (place / "runs").mkdir()
    (place / "runs" / "c").write_text("")
    line = refused("train", "--config=c.yaml")
    assert "--out was left out, so it is runs/c. --out runs/c: is a file" in line


@pytest.mark.slow
def test_an_existing_run_is_kept_until_told(place, train_refused):
    done = ftkeras(place, "train", "--config=c.yaml", "--out=run")
    assert done.returncode == 0, done.stderr
    config = (place / "run" / "config.yaml").stat().st_mtime_ns
    assert "already holds a run" in train_refused()
    assert (place / "run" / "config.yaml").stat().st_mtime_ns == config
    assert main(["train", "--config=c.yaml", "--out=run", "--overwrite"]) == 0
    assert (place / "run" / "config.yaml").stat().st_mtime_ns > config
    assert '"state": "finished"' in (place / "run" / "status.json").read_text()


def test_a_folder_that_is_not_a_run_is_never_replaced(place, train_refused):
    assert "is not empty and not a run" in train_refused("--out=photos", "--overwrite")


@pytest.mark.slow
def test_ctrl_c_keeps_the_record(place):
    process = start(place, "train", "--config=c.yaml", "--out=run", "--set=phases[0].epochs=10000")
    metrics = place / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert '"state": "interrupted"' in (place / "run" / "status.json").read_text()
    assert (place / "run" / "checkpoints" / "last.weights.h5").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train"], "--config is missing"),
        (["train", "--config=none.yaml"], "no such config file"),
        (["train", "--confg=c.yaml"], "no flag --confg. Did you mean 'config'? See"),
        (["train", "--epochs=3"], "no flag --epochs. A field of the config: --set FIELD=VALUE"),
        (["train", "my.yaml"], "Did you mean --config=my.yaml?"),
        (["init", "new.yaml", "--backbone=VGG16", "--weights=starter"], "fits only MobileNetV2"),
        (["evaluate", "photos"], "not a run folder"),
        (["evaluate"], "expected one run folder"),
        (["predict", "run"], "expected a run folder and at least one file"),
        (["predict", "run", "x", "--top_k=0"], "top_k"),
        (["init", "c.yaml"], "exists already"),
        (["init", "no/such/folder/c.yaml"], "cannot be written"),
    ],
)
def test_a_wrong_command(refused, arguments, part):
    assert part in refused(*arguments)
