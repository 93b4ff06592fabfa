"""A run folder that version 0.1 made is evaluated, exported, predicted with and reported on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftkeras.cli.main import main
from ftkeras.run import Run

KEPT = Path(__file__).with_name("version_0_1")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old") / "kept"
    shutil.copytree(KEPT, folder)
    return folder


def test_it_is_evaluated_as_it_was(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = Run.open("run").read_json("evaluation.json")
    assert main(["evaluate", "run"]) == 0
    now = Run.open("run").read_json("evaluation.json")
    assert (now["accuracy"], now["examples"]) == (before["accuracy"], before["examples"])
    np.testing.assert_allclose(now["nll"], before["nll"], rtol=1e-5)
    # That of accuracy is Wilson's since then; the others are drawn as they were.
    np.testing.assert_allclose(now["intervals"]["nll"], before["intervals"]["nll"], rtol=1e-5)
    assert now["intervals"]["macro_f1"] == before["intervals"]["macro_f1"]


def test_it_predicts_exports_and_reports(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    Image.fromarray(np.load("images.npz")["images"][0]).save("image.png")
    assert main(["predict", "run", "image.png"]) == 0
    assert main(["export", "run", "--out=exported"]) == 0
    assert main(["report", "run"]) == 0
    assert (place / "exported" / "1" / "saved_model.pb").exists()
    report = (place / "run" / "report.html").read_text()
    assert "0.1.0" in report and "16 px, crop" in report
    assert "is now data.input" not in "".join(capsys.readouterr())
