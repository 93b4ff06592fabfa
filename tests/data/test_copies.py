"""Copies of training examples in the splits that measure, found before training."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from ftkeras.data import copies
from ftkeras.data.copies import find_copies
from ftkeras.data.load import load_data
from ftkeras.inputs.registry import make_input


@pytest.fixture
def photos(make_folder):
    """A folder of train, val and test, with two copies of training images in test, one in val."""
    places = [f"{s}/{c}" for s in ("train", "val", "test") for c in ("cat", "dog")]
    root = make_folder(dict.fromkeys(places, 4))
    for source, copy in (("cat/1", "test/cat/7"), ("dog/0", "test/dog/2"), ("cat/3", "val/cat/9")):
        shutil.copy(root / f"train/{source}.png", root / f"{copy}.png")
    shutil.copy(root / "train/cat/0.png", root / "train/cat/8.png")  # within a split
    return root


def test_copies_of_files_are_found_listed_and_counted(photos, tmp_path):
    data = load_data("folder", path=str(photos))
    found = find_copies(data, make_input("image"))
    assert set(found.rows) == {
        ("test", "test/cat/7.png", "train", "train/cat/1.png"),
        ("test", "test/dog/2.png", "train", "train/dog/0.png"),
        ("val", "val/cat/9.png", "train", "train/cat/3.png"),
    }
    assert found.counts == {"test": 2, "val": 1}
    test, val = found.notes
    assert test.startswith("2 of 9 (22.2%) test images are exact copies of images in train")
    assert "The first is test/cat/7.png (as train: train/cat/1.png)" in test
    assert "Remove them from train" in test and "`ftkeras doctor`" in test
    assert val.startswith("1 of 9 (11.1%) val images are exact copies of images in train")
    found.write(str(tmp_path / "copies.csv"))
    with open(tmp_path / "copies.csv", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)][1:] == list(found.rows)


def test_only_files_of_equal_size_are_read(photos, monkeypatch):
    data = load_data("folder", path=str(photos))
    opened = []

    def spy(path, mode):
        opened.append(path)
        return open(path, mode)

    monkeypatch.setattr(copies, "open", spy, raising=False)
    (photos / "test/cat/7.png").write_bytes((photos / "train/cat/1.png").read_bytes() + b" ")
    assert find_copies(data, make_input("image")).counts == {"test": 1, "val": 1}
    sizes = {path.stat().st_size for path in photos.glob("test/*/*")} | {
        path.stat().st_size for path in photos.glob("val/*/*")
    }
    assert 0 < len(opened) < 27 and str(photos / "test/cat/7.png") not in opened
    assert all((photos / path).stat().st_size in sizes for path in opened)


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("_MOST", 26, "there are 27 images"), ("_MOST_BYTES", 1000, "have equal sizes")],
)
def test_what_costs_much_is_not_looked_for_and_says_so(photos, monkeypatch, limit, value, reason):
    monkeypatch.setattr(copies, limit, value)
    found = find_copies(load_data("folder", path=str(photos)), make_input("image"))
    assert found.counts is None and not found.rows
    [note] = found.notes
    assert reason in note and "not looked for" in note


def test_texts_are_copies_whatever_their_case_and_spaces(tmp_path):
    rows = [
        *(("train", f"a text of number {i}", "ab"[i % 2]) for i in range(8)),
        ("val", "another text", "a"),
        ("test", "A  text of Number 3", "b"),
        ("test", "another  TEXT", "a"),
        ("test", "a text of number 30", "b"),
    ]
    lines = ["split,text,label", *(",".join(row) for row in rows)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    kind = make_input("text")
    data = load_data("manifest", path=str(tmp_path / "t.csv"), kind=kind)
    found = find_copies(data, kind)
    assert [(row[0], row[2]) for row in found.rows] == [("test", "train"), ("test", "val")]
    assert found.notes[0].startswith("2 of 3 (66.7%) test texts are exact copies of texts in train")


def test_arrays_are_compared_by_content(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    arrays = {"x_train": images[:8], "x_test": images[[8, 2, 9, 10]]}
    labels = {"y_train": np.arange(8) % 2, "y_test": np.arange(4) % 2}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    data = load_data("arrays", path=str(tmp_path / "a.npz"), split={"val": None, "test": "test"})
    found = find_copies(data, make_input("image"))
    assert found.counts == {"test": 1}
    [(split, copy, of, original)] = found.rows
    assert (split, of) == ("test", "train")
    assert copy == data.splits["test"].ids[1] and original == data.splits["train"].ids[2]
