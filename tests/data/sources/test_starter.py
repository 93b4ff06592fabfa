from __future__ import annotations

import zipfile

import pytest

from ftkeras.data.load import load_data
from ftkeras.data.sources import starter
from ftkeras.errors import UserError


def test_the_starter_has_its_own_test_set_and_validation_from_train(cache):
    data = load_data("starter")
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 1700, "val": 300, "test": 1000}
    assert len(data.class_names) == 10 and data.bad_files == ()
    assert all(key.startswith("test/") for key in data.splits["test"].ids)
    assert (data.splits["val"].counts == 30).all()
    assert [folder.name for folder in (cache / "starter").iterdir() if folder.is_dir()]


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "C:evil.txt"])
def test_an_archive_cannot_write_elsewhere(tmp_path, cache, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("train/a/0.png", b"fine")
        archive.writestr(name, b"evil")
    with pytest.raises(UserError, match="outside its folder"):
        starter.unpack(tmp_path / "bad.zip")
    assert not list(tmp_path.rglob("*evil*")) and not list(cache.rglob("*.*"))


def test_an_archive_cannot_link_elsewhere(tmp_path):
    link = zipfile.ZipInfo("train/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(UserError, match="outside its folder"):
        starter.unpack(tmp_path / "bad.zip")


def test_an_archive_is_unpacked_once_for_each_content(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train/a/0.txt", b"one")
    first = starter.unpack(tmp_path / "a.zip")
    (first / "train/a/0.txt").write_text("mine")
    assert starter.unpack(tmp_path / "a.zip") == first
    assert (first / "train/a/0.txt").read_text() == "mine"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train/a/0.txt", b"two")
    assert (starter.unpack(tmp_path / "a.zip") / "train/a/0.txt").read_text() == "two"
