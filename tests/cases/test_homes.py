"""Case 21: a home that cannot be written, and a run that is used from elsewhere."""

from __future__ import annotations

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
