"""What the cases share: noise to classify, a backbone of one layer, and one small finished run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from ftkeras import load_data
from ftkeras.cli.main import main
from ftkeras.data.dataset import Data

CONFIG = """\
data: {source: folder, path: photos, input: {size: 16, augmentation: none}, batch_size: 8}
backbone: {name: tiny.keras}
phases: [{name: head, train: [head], epochs: 1, learning_rate: 1e-3}]
trunk: {mode: 'off'}
export: {saved_model: false}
report: false
"""

Draw = Callable[[Path, Mapping[str, int]], None]
Command = Callable[..., "Done"]


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Trained:
    """A folder with photos, a config and a finished run of it."""

    place: Path
    run: str  # relative to the place; the name has a space
    printed: str


@pytest.fixture(scope="session")
def draw() -> Draw:
    """A function that fills a folder with so many images of noise for each class."""

    def fill(folder: Path, counts: Mapping[str, int]) -> None:
        random = np.random.default_rng(0)
        for name, count in counts.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{i}.png")

    return fill


@pytest.fixture(scope="session")
def prepare(draw) -> Callable[[Path], None]:
    """A function that gives a folder photos of two classes, a backbone and a config, `c.yaml`."""

    def fill(place: Path) -> None:
        draw(place / "photos", {"cat": 20, "dog": 20})
        keras.utils.set_random_seed(0)
        image = keras.Input((16, 16, 3))
        x = keras.layers.Rescaling(1 / 255)(image)
        x = keras.layers.Conv2D(4, 3, strides=2)(x)
        keras.Model(image, x).save(place / "tiny.keras")
        (place / "c.yaml").write_text(CONFIG)

    return fill


@pytest.fixture
def read(tmp_path, monkeypatch, draw) -> Callable[..., Data]:
    """A function that writes a table on the images `pics/0.png` to `pics/7.png` and loads it."""
    monkeypatch.chdir(tmp_path)
    draw(tmp_path, {"pics": 8})

    def load(*lines: str, name: str = "list.csv", **options: object) -> Data:
        Path(name).write_text("\n".join(lines) + "\n")
        return load_data("manifest", path=name, **options)

    return load


@pytest.fixture(scope="session")
def train() -> Callable[..., str]:
    """A function that trains in a folder and returns what was printed."""

    def run(place: Path, *arguments: str) -> str:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.chdir(place)
            status = main(["train", *arguments])
        if status != 0:  # no AssertionError: an expected failure must not hide it
            raise RuntimeError(f"training ended with status {status}: {printed.getvalue()}")
        return printed.getvalue()

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, prepare, train) -> Trained:
    """A finished run; a test that writes into it takes `place` instead."""
    place = tmp_path_factory.mktemp("trained")
    prepare(place)
    return Trained(place, "first run", train(place, "--config=c.yaml", "--out=first run"))


@pytest.fixture
def place(trained, tmp_path, monkeypatch) -> Path:
    """A working folder of the test's own, with photos, `c.yaml` and the run `first run`."""
    copy = tmp_path / "place"
    shutil.copytree(trained.place, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def ftkeras(capsys) -> Command:
    """A function that runs a command line in this process."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        status = main(arguments)
        return Done(status, *capsys.readouterr())

    return run
