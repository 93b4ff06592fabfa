"""Small pictures of coloured shapes with texts that say so, and one trained run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image, ImageDraw

from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.run import Run

COLOURS = {
    "red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40),
    "black": (10, 10, 10), "pink": (240, 130, 190),
}  # fmt: skip
SHAPES = ("square", "circle", "bar", "cross")


def draw(colour: str, shape: str, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    background = tuple(int(value) for value in random.integers(225, 256, 3))
    picture = Image.new("RGB", (16, 16), background)
    pen = ImageDraw.Draw(picture)
    fill = COLOURS[colour]
    if shape == "circle":
        pen.ellipse((2, 2, 13, 13), fill=fill)
    elif shape == "square":
        pen.rectangle((3, 3, 12, 12), fill=fill)
    else:
        pen.rectangle((1, 6, 14, 9), fill=fill)
        if shape == "cross":
            pen.rectangle((6, 1, 9, 14), fill=fill)
    return picture


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with 24 kinds of pictures, three of each, and a small backbone beside it."""
    folder = tmp_path_factory.mktemp("shapes")
    rows = []
    for seed, split in enumerate(("train", "train", "val")):
        for colour in COLOURS:
            for shape in SHAPES:
                name = f"{colour}-{shape}-{seed}.png"
                draw(colour, shape, seed).save(folder / name)
                tags = f"{shape};{colour}" if seed else ""
                rows.append((name, f"a {colour} {shape}", tags, shape, split))
    with open(folder / "shapes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "name", "tags", "shape", "split"), *rows])
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Conv2D(16, 5, strides=2, activation="relu", name="one")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.Conv2D(24, 3, strides=2, activation="relu", name="two")(x)
    keras.Model(inputs, x, name="tiny").save(str(folder / "tiny.keras"))
    return folder


def config(folder: Path, *overrides: str) -> Config:
    tree: dict[str, Any] = {
        "task": "alignment",
        "data": {
            "source": "manifest",
            "path": f"{folder}/shapes.csv",
            "input": {"size": 16, "augmentation": "none"},
            "batch_size": 16,
        },
        "backbone": {"name": f"{folder}/tiny.keras"},
        "head": {"dropout": 0.0},
        "alignment": {
            "texts": ["name", "tags"],
            "separator": ";",
            "units": 16,
            "backbone": {
                "name": "gru", "weights": "none", "recurrent": {"units": 8, "embedding": 16}
            },
            "classes": {"column": "shape", "templates": ["a {}", "{}"]},
        },
        "phases": [
            {"name": "projections", "train": ["head"], "epochs": 3, "learning_rate": 1e-2},
            {
                "name": "both", "train": ["head", "images/blocks[-1:]", "texts/all"], "epochs": 4,
                "learning_rate": 1e-2,
            },
        ],
        "trunk": {"mode": "on", "precision": "exact"},
        "export": {"saved_model": False},
        "report": False,
    }  # fmt: skip
    return parse_config(tree, overrides)


@pytest.fixture(scope="session")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with everything that a run writes."""
    from ftkeras.runs.train import train

    whole = config(shapes, "export.saved_model=true", "report=true")
    return train(whole, str(tmp_path_factory.mktemp("runs") / "trained"))
