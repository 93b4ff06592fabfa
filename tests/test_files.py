"""Whole writes: the old file or the new one, on a local disk and on a remote one."""

from __future__ import annotations

import os

import pytest
import tensorflow as tf

from ftkeras.files import is_half_written, write_whole, written_whole

gfile = tf.io.gfile


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path) -> str:
    place = str(tmp_path) if request.param == "local" else f"ram://{tmp_path.name}"
    gfile.makedirs(place)
    return place


def read(path: str) -> bytes:
    with gfile.GFile(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("content", ["", "a text, ä", b"\x00\xff"])
def test_a_file_is_written_whole(folder, content):
    path = f"{folder}/file.txt"
    for _ in range(2):
        write_whole(path, content)
        assert read(path) == (content.encode() if isinstance(content, str) else content)
        assert gfile.listdir(folder) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(folder, error):
    path = f"{folder}/model.keras"
    write_whole(path, "old")
    with pytest.raises(error), written_whole(path) as temporary:
        write_whole(temporary, "half")
        assert temporary.endswith("model.keras") and is_half_written(os.path.basename(temporary))
        assert read(path) == b"old"
        raise error
    assert read(path) == b"old" and gfile.listdir(folder) == ["model.keras"]


def test_each_writer_has_a_path_of_its_own(tmp_path):
    path = tmp_path / "file"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        for temporary, text in ((first, "first"), (second, "second")):
            write_whole(temporary, text)
    assert path.read_text() == "first"  # which ended last
