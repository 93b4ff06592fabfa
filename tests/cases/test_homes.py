"""Case 21: a home that cannot be written, and a run that is used from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

VERBS = {
    "plan": ["plan", "--config=c.yaml"],
    "train": ["train", "--config=c.yaml", "--out=second"],
    "predict": ["predict", "first run", "photos"],
    "cache": ["cache"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_home_a_temporary_folder_serves(place, ftkeras, monkeypatch, verb):
    """Source: facebookresearch/detectron2 381."""
    Path("home").write_text("no folder")  # root may write into any folder, but not into a file
    monkeypatch.setenv("HOME", str(place / "home"))
    monkeypatch.delenv("FTKERAS_CACHE")
    done = ftkeras(*VERBS[verb])
    assert done.status == 0, done.err
    assert "FTKERAS_CACHE" in done.out + done.err


@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_a_run_works_from_any_folder(place, ftkeras, monkeypatch, tmp_path, verb):
    """Source: facebookresearch/hydra 922: relative paths are stored as they were typed."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = ftkeras(verb, str(place / "first run"))
    assert done.status == 0, done.err
    assert "the report shows no" not in done.out


@pytest.mark.parametrize(
    "verb", [["evaluate", "first run"], ["report", "first run"], ["export", "first run"]]
)
def test_the_data_of_a_finished_run_may_move(place, ftkeras, verb):
    """The disk has another name today."""
    config = Path("first run/config.yaml")
    before = config.read_text()
    old = re.search(r"path: (\S*photos)", before)[1]
    config.write_text(before.replace(old, "/gone/photos"))
    Path("first run/pictures.json").unlink(missing_ok=True)
    done = ftkeras(*verb)
    reads = verb[0] != "export"  # which needs data for quantised formats alone
    if reads:
        hint = "If the data of 'first run' have moved: --set data.path=PATH."
        assert hint in done.out + done.err
        assert done.status == (2 if verb[0] == "evaluate" else 0)
    moved = ftkeras(*verb, f"--set=data.path={place / 'photos'}")
    assert moved.status == 0 and "have moved" not in moved.out + moved.err, moved.err
    assert "/gone/photos" in config.read_text()


def test_nothing_else_of_a_finished_run_changes(place, ftkeras):
    done = ftkeras("evaluate", "first run", "--set=seed=3")
    assert done.status == 2
    assert "--set seed=3: of a run only data.path may change." in done.err
