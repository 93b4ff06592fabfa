from __future__ import annotations

from pathlib import Path

import pytest

from ftkeras.cache import Remembered


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
