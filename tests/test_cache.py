from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftkeras.cache import Remembered, cache_folder, keep
from ftkeras.cli.main import main


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("FTKERAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_facts_last_while_their_stamp_does(cache):
    known = Remembered("scan", "folder")
    known.put("a", "1", ["copy", ""])
    known.save()
    assert Remembered("scan", "folder").get("a", "1") == ["copy", ""]
    assert Remembered("scan", "folder").get("a", "2") is None
    assert Remembered("scan", "other folder").get("a", "1") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": ["1"'])
def test_a_broken_cache_is_an_empty_one(cache, content):
    known = Remembered("scan", "folder")
    known.put("a", "1", "fact")
    known.save()
    (file,) = (cache / "scan").iterdir()
    file.write_text(content)
    assert Remembered("scan", "folder").get("a", "1") is None


def test_a_full_disk_costs_a_line_once(cache, capsys, monkeypatch):
    def full(path, content):
        raise OSError("no space left on device")

    monkeypatch.setattr("ftkeras.cache.write_whole", full)
    known = Remembered("scan", "folder")
    for fact in ("a", "b"):
        known.put(fact, "1", fact)
        known.save()
    told = capsys.readouterr().err
    assert told.count("nothing is kept in") == 1 and "no space left on device" in told
    assert known.get("a", "1") == "a"


def test_a_folder_that_is_a_file_costs_a_line(cache, capsys):
    (cache_folder() / "floor").write_text("")
    keep(cache_folder() / "floor" / "a.npz", {"a": 1.0})  # TensorFlow's own error, not the system's
    assert "nothing is kept in" in capsys.readouterr().err


def test_all_folders_are_listed_and_pruned_by_when_they_were_used(cache, capsys):
    for age, name in enumerate(("floor/a.npz", "search/b.npz", "starter/c/d.png", "new/e")):
        file = cache / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(600_000))
        os.utime(file, (1e9 - age * 86_400,) * 2)
    assert main(["cache"]) == 0
    told = capsys.readouterr().out
    for name in ("floor", "search", "starter", "new"):
        assert f"\n{name} " in told
    assert "linear models" in told and "removed" not in told
    assert main(["cache", "--max_mb=1"]) == 0
    assert "removed 3, 1.8 MB" in capsys.readouterr().out
    assert [file.name for file in cache.rglob("*") if file.is_file()] == ["a.npz"]
