"""Settings of Keras that ftkeras cannot work with are refused in plain words, before anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

CONFIG = """\
data: {source: folder, path: photos, input: {size: 32}, batch_size: 4}
backbone: {name: MobileNetV2, weights: none}
phases: [{name: head, train: [head], epochs: 1, learning_rate: 1e-3}]
"""
SETTINGS = {
    "image_data_format": ({"image_data_format": "channels_first"}, {}),
    "floatx": ({"floatx": "float16"}, {}),
    "KERAS_BACKEND": ({}, {"KERAS_BACKEND": "jax"}),
}


@pytest.mark.parametrize("verb", ["train", "doctor"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_keras_that_cannot_work_are_wrong_input(setting, verb, tmp_path: Path):
    """mtcnn 101. It is the answer of every verb that needs Keras, before it is imported."""
    written, environment = SETTINGS[setting]
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "c.yaml").write_text(CONFIG)
    home = tmp_path / "keras"
    home.mkdir()
    # The tests' own log level would let through what the command silences by default.
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    inherited |= {"KERAS_HOME": str(home), "TMPDIR": str(tmp_path)}
    defaults = {"floatx": "float32", "epsilon": 1e-7, "backend": "tensorflow"}
    settings = {**defaults, "image_data_format": "channels_last", **written}
    (home / "keras.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "ftkeras", verb, "--config=c.yaml"],
        cwd=tmp_path,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("ftkeras: error: ")
    assert setting in line
    assert not (tmp_path / "runs").exists()
