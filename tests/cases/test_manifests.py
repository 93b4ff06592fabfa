"""Cases 18, 19 and 22: tables of images as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ftkeras import UserError, load_data
from ftkeras.data.dataset import Data

Table = Callable[..., Data]


@pytest.fixture
def read(tmp_path, monkeypatch, draw) -> Table:
    """A function that writes a table on the images `pics/0.png` to `pics/7.png` and loads it."""
    monkeypatch.chdir(tmp_path)
    draw(tmp_path, {"pics": 8})

    def load(*lines: str, name: str = "list.csv", **options: object) -> Data:
        Path(name).write_text("\n".join(lines) + "\n")
        return load_data("manifest", path=name, **options)

    return load


def ids(data: Data) -> list[str]:
    return [key for split in data.splits.values() for key in split.ids]


# ------------------------------------------------------------------------- 18: weight


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="case 18: a column weighs the loss without a word"
)
@pytest.mark.parametrize("options", [{}, {"weight_column": "kg"}], ids=["default", "named"])
def test_a_column_that_weighs_the_loss_is_spoken_of(read, options):
    """Source: tensorflow/tensorflow 33550, a column called weight, in kilograms."""
    column = options.get("weight_column", "weight")
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{4.5 if i % 2 else 30}" for i in range(8)]
    data = read(f"path,label,{column}", *rows, **options)
    is_used = any(split.weights is not None for split in data.splits.values())
    assert not is_used or any(column in note for note in data.notes)


@pytest.mark.xfail(
    strict=True, raises=pytest.fail.Exception, reason="case 18: a class may weigh nothing"
)
def test_a_class_that_weighs_nothing_is_refused(read):
    """Source: tensorflow/tensorflow 33550."""
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{i % 2}" for i in range(8)]
    with pytest.raises(UserError, match="dog"):
        read("path,label,weight", *rows, weight_column="weight")


# ------------------------------------------------------------------------- 19: labels


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="case 19: several labels in a cell become one"
)
@pytest.mark.parametrize("separator", [",", "|", ";"])
def test_a_separator_in_every_label_is_noted(read, separator):
    """Source: keras-team/keras 13277."""
    names = [f"{'cat' if i % 2 else 'dog'}{separator}animal" for i in range(8)]
    data = read("path,label", *(f'pics/{i}.png,"{name}"' for i, name in enumerate(names)))
    assert any("multi_label" in note for note in data.notes)


@pytest.mark.xfail(
    strict=True, raises=TypeError, reason="case 19: no field names the separator of labels"
)
@pytest.mark.parametrize("separator", [",", "|"])
def test_the_separator_of_labels_can_be_named(read, separator):
    """Source: keras-team/keras 13277. The case leaves the field's name open."""
    names = [f"{'cat' if i % 2 else 'dog'}{separator}animal" for i in range(8)]
    rows = [f'pics/{i}.png,"{name}"' for i, name in enumerate(names)]
    data = read("path,label", *rows, multi_label=True, label_separator=separator)
    assert data.class_names == ("animal", "cat", "dog")
    assert (data.splits["train"].labels.sum(axis=1) == 2).all()


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="case 19: an image of two rows is two examples"
)
def test_rows_of_one_image_become_one_example(read):
    """Source: keras-team/keras 13277: one row per label repeats the image across splits."""
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(8)]
    rows += [f"pics/{i}.png,animal" for i in range(8)]
    data = read("path,label", *rows, multi_label=True)
    assert sorted(ids(data)) == [f"pics/{i}.png" for i in range(8)]
    labels = np.concatenate([split.labels for split in data.splits.values()])
    assert (labels.sum(axis=1) == 2).all()


@pytest.mark.xfail(
    strict=True, raises=TypeError, reason="case 19: one column per label is not read"
)
def test_one_column_per_label_is_read(read):
    """Source: keras-team/keras-preprocessing 135. The case leaves the field's name open."""
    rows = [f"pics/{i}.png,1,{i % 2},{1 - i % 2}" for i in range(8)]
    columns = ["animal", "cat", "dog"]
    data = read("path,animal,cat,dog", *rows, label_columns=columns, multi_label=True)
    assert data.class_names == tuple(columns)
    for split in data.splits.values():
        for key, label in zip(split.ids, split.labels, strict=True):
            odd = int(key.removeprefix("pics/")[0]) % 2
            assert label.tolist() == [1, odd, 1 - odd]


# ------------------------------------------------------------------------- 22: spelling


@pytest.mark.xfail(
    strict=True, raises=UserError, reason="case 22: a manifest with ; or tab is refused"
)
@pytest.mark.parametrize(
    ("delimiter", "name"),
    [(";", "list.csv"), ("\t", "list.csv"), ("\t", "list.tsv")],
    ids=["semicolon", "tab", "tsv"],
)
def test_another_delimiter_is_understood(read, delimiter, name):
    """Source: seen on version 0.1, beside tensorflow/models 2194: a spreadsheet wrote the table."""
    rows = [delimiter.join((f"pics/{i}.png", "cat" if i % 2 else "dog")) for i in range(8)]
    data = read(delimiter.join(("path", "label")), *rows, name=name)
    assert data.class_names == ("cat", "dog")
    assert sorted(ids(data)) == [f"pics/{i}.png" for i in range(8)]


@pytest.mark.xfail(
    strict=True, raises=UserError, reason="case 22: a path with backslashes is a missing file"
)
@pytest.mark.parametrize("start", ["", ".\\"])
def test_backslashes_in_paths_are_understood(read, start):
    """Source: seen on version 0.1, beside tensorflow/models 2194: the table is from Windows."""
    rows = [f"{start}pics\\{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(8)]
    data = read("path,label", *rows)
    assert not data.bad_files
    assert len(ids(data)) == 8


@pytest.mark.xfail(
    strict=True, raises=UserError, reason="case 22: Train is not understood as train"
)
@pytest.mark.parametrize(
    "parts", [("Train", "Test"), ("TRAIN", "TEST"), (" train", "test "), ("Training", "Testing")]
)
def test_parts_are_understood_in_any_case(read, parts):
    """Source: seen on version 0.1, beside tensorflow/models 2194. Folders called Train are read."""
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{parts[i // 4]}" for i in range(8)]
    data = read("path,label,split", *rows, split={"val": None, "test": "test"})
    assert sorted(data.splits["train"].ids) == [f"pics/{i}.png" for i in range(4)]
    assert sorted(data.splits["test"].ids) == [f"pics/{i}.png" for i in range(4, 8)]
