"""Cases 18, 19 and 22: tables of images as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ftkeras import UserError
from ftkeras.data.answers import Question
from ftkeras.data.dataset import Data

Table = Callable[..., Data]


def ids(data: Data) -> list[str]:
    return [key for split in data.splits.values() for key in split.ids]


# ------------------------------------------------------------------------- 18: weight


@pytest.mark.parametrize("options", [{}, {"weight_column": "kg"}], ids=["default", "named"])
def test_a_column_that_weighs_the_loss_is_spoken_of(read, options):
    """Source: tensorflow/tensorflow 33550, a column called weight, in kilograms."""
    column = options.get("weight_column", "weight")
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{4.5 if i % 2 else 30}" for i in range(8)]
    data = read(f"path,label,{column}", *rows, **options)
    is_used = any(split.weights is not None for split in data.splits.values())
    assert not is_used or any(column in note for note in data.notes)


def test_a_class_that_weighs_nothing_is_refused(read):
    """Source: tensorflow/tensorflow 33550."""
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{i % 2}" for i in range(8)]
    with pytest.raises(UserError, match="dog"):
        read("path,label,weight", *rows, weight_column="weight")


def test_a_label_that_weighs_nothing_is_refused_though_its_images_have_others(read):
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'animal'},1" for i in range(7)]
    with pytest.raises(UserError, match="'fox' have the weight 0.*weight_column"):
        read("path,label,weight", *rows, "pics/7.png,animal;fox,0", multi_label=True)


def test_no_column_weighs_the_loss_if_none_is_named(read):
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{i % 2}" for i in range(8)]
    data = read("path,label,weight", *rows, weight_column=None)
    assert data.splits["train"].weights is None and not data.notes
    assert set(data.splits["train"].columns["weight"]) == {"0", "1"}


@pytest.mark.parametrize("field", ["weight_column", "split_column"])
def test_a_column_that_is_named_and_missing_is_an_error(read, field):
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},1" for i in range(8)]
    with pytest.raises(UserError, match=f"data.{field}: .* no column 'grms'. Did you mean 'grams'"):
        read("path,label,grams", *rows, **{field: "grms"})


# ------------------------------------------------------------------------- 19: labels


@pytest.mark.parametrize("separator", [",", "|", ";"])
def test_a_separator_in_every_label_is_noted(read, separator):
    """Source: keras-team/keras 13277."""
    names = [f"{'cat' if i % 2 else 'dog'}{separator}animal" for i in range(8)]
    data = read("path,label", *(f'pics/{i}.png,"{name}"' for i, name in enumerate(names)))
    assert any("multi_label" in note for note in data.notes)


def test_a_separator_is_noted_if_only_some_images_have_several_labels(read):
    names = ["cat|dog", "cat", "dog"]
    rows = [f"pics/{i}.png,{names[i % 3]}" for i in range(8)]
    assert any("multi_label" in note for note in read("path,label", *rows).notes)
    [note] = read("path,label", *rows, multi_label=True).notes
    assert "data.label_separator='|'" in note and "data.multi_label" not in note
    assert not read("path,label", *rows, multi_label=True, label_separator="|").notes
    plain = [f"pics/{i}.png,{'dog, small' if i % 2 else 'cat'}" for i in range(8)]
    assert not read("path|label", *(row.replace(",", "|", 1) for row in plain)).notes


def test_a_separator_in_the_answers_of_an_output_is_noted(read):
    kinds, tags = ("cat|old", "cat|new"), ("red", "red;big")
    rows = [f"pics/{i}.png,{kinds[i % 2]},{tags[i % 4 > 1]}" for i in range(8)]
    questions = [Question("kind", "kind"), Question("tags", "tags", "labels")]
    [note] = read("path,kind,tags", *rows, label_column=None, questions=questions).notes
    assert note.startswith("outputs.kind: answers hold '|'") and "kind to labels" in note


@pytest.mark.parametrize("separator", [",", "|"])
def test_the_separator_of_labels_can_be_named(read, separator):
    """Source: keras-team/keras 13277."""
    names = [f"{'cat' if i % 2 else 'dog'}{separator}animal" for i in range(8)]
    rows = [f'pics/{i}.png,"{name}"' for i, name in enumerate(names)]
    data = read("path,label", *rows, multi_label=True, label_separator=separator)
    assert data.class_names == ("animal", "cat", "dog")
    assert (data.splits["train"].labels.sum(axis=1) == 2).all()


def test_rows_of_one_image_become_one_example(read):
    """Source: keras-team/keras 13277: one row per label repeats the image across splits."""
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(8)]
    rows += [f"pics/{i}.png,animal" for i in range(8)]
    data = read("path,label", *rows, multi_label=True)
    assert sorted(ids(data)) == [f"pics/{i}.png" for i in range(8)]
    labels = np.concatenate([split.labels for split in data.splits.values()])
    assert (labels.sum(axis=1) == 2).all()


@pytest.mark.parametrize("same", ["./pics/{}.png", "pics/../pics/{}.png", "{here}/pics/{}.png"])
def test_spellings_of_one_path_are_one_example(read, tmp_path, same):
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{i},,2" for i in range(8)]
    rows += [same.format(0, here=tmp_path) + ",dog,x,test,3"]
    split = {"val": None, "test": "test"}
    data = read("path,label,camera,split,weight", *rows, split=split)
    assert sorted(ids(data)) == [f"pics/{i}.png" for i in range(8)]
    [test] = [data.splits["test"]]
    assert list(test.ids) == ["pics/0.png"] and test.weights.tolist() == [3.0]
    assert test.columns["camera"].tolist() == ["0;x"]
    assert any("9 lines of the manifest list 8 images" in note for note in data.notes)


def test_lines_of_one_image_that_contradict_each_other(read):
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(8)]
    with pytest.raises(UserError, match="1 x several lines .* different labels.*multi_label"):
        read("path,label", *rows, "pics/0.png,cat")
    data = read("path,label", *rows, "pics/0.png,cat", max_bad_files=0.2)
    assert [bad.path for bad in data.bad_files] == ["pics/0.png"]
    assert "pics/0.png" not in ids(data)
    with pytest.raises(UserError, match=r"csv:10: pics/0.png is in test, and in train at .*csv:2"):
        read("path,label,split", *(f"{row},train" for row in rows), "pics/0.png,dog,test")


def test_one_column_per_class_holds_one_1(read):
    rows = [f"pics/{i}.png,{i % 2},{'' if i % 2 else 'TRUE'}" for i in range(8)]
    columns = {"label_columns": ["dog", "cat"]}
    data = read("path,dog,cat", *rows, **columns)
    assert data.class_names == ("dog", "cat")
    for split in data.splits.values():
        assert split.labels.tolist() == [1 - int(Path(key).stem) % 2 for key in split.ids]
        assert not split.columns
    for cells, message in {
        "1,1": "not dog, cat",
        "0,": "not none",
        "1,.5": "cat must be 0 or 1",
    }.items():
        with pytest.raises(UserError, match=f"list.csv:10: .*{message}"):
            read("path,dog,cat", *rows, f"pics/0.png,{cells}", **columns)


def test_one_column_per_label_is_read(read):
    """Source: keras-team/keras-preprocessing 135."""
    rows = [f"pics/{i}.png,1,{i % 2},{1 - i % 2}" for i in range(8)]
    columns = ["animal", "cat", "dog"]
    data = read("path,animal,cat,dog", *rows, label_columns=columns, multi_label=True)
    assert data.class_names == tuple(columns)
    for split in data.splits.values():
        for key, label in zip(split.ids, split.labels, strict=True):
            odd = int(key.removeprefix("pics/")[0]) % 2
            assert label.tolist() == [1, odd, 1 - odd]


# ------------------------------------------------------------------------- 22: spelling


@pytest.mark.parametrize(
    ("delimiter", "name"),
    [(";", "list.csv"), ("\t", "list.csv"), ("\t", "list.tsv"), ("|", "list.csv")],
    ids=["semicolon", "tab", "tsv", "bar"],
)
def test_another_delimiter_is_understood(read, delimiter, name):
    """Source: seen on version 0.1, beside tensorflow/models 2194: a spreadsheet wrote the table."""
    rows = [delimiter.join((f"pics/{i}.png", "cat" if i % 2 else "dog")) for i in range(8)]
    data = read(delimiter.join(("path", "label")), *rows, name=name)
    assert data.class_names == ("cat", "dog")
    assert sorted(ids(data)) == [f"pics/{i}.png" for i in range(8)]


def test_the_delimiter_is_that_of_the_columns(read):
    """A spreadsheet's first line may name it; a header may hold other delimiters, and spaces."""
    rows = [f"pics/{i}.png;{'cat' if i % 2 else 'dog'};{i},{i}" for i in range(8)]
    for header in (["sep=;", "path;label;x,y,z"], ['"path"; label;x,y,z']):
        data = read(*header, *rows)
        assert data.class_names == ("cat", "dog")
        assert "0,0" in {cell for s in data.splits.values() for cell in s.columns["x,y,z"]}
    with pytest.raises(UserError, match=r"list.csv:10: .* Quote fields that hold semicolons"):
        read("path;label;x,y,z", *rows, "pics/0.png;cat")


def test_a_backslash_may_be_a_part_of_a_name(read, tmp_path):
    for i in range(8):
        (tmp_path / "pics" / f"{i}.png").rename(tmp_path / "pics" / f"a\\{i}.png")
    data = read("path,label", *(f"pics/a\\{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(8)))
    assert sorted(ids(data)) == [f"pics/a\\{i}.png" for i in range(8)]


@pytest.mark.parametrize("start", ["", ".\\"])
def test_backslashes_in_paths_are_understood(read, start):
    """Source: seen on version 0.1, beside tensorflow/models 2194: the table is from Windows."""
    rows = [f"{start}pics\\{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(8)]
    data = read("path,label", *rows)
    assert not data.bad_files
    assert len(ids(data)) == 8


@pytest.mark.parametrize(
    "parts", [("Train", "Test"), ("TRAIN", "TEST"), (" train", "test "), ("Training", "Testing")]
)
def test_parts_are_understood_in_any_case(read, parts):
    """Source: seen on version 0.1, beside tensorflow/models 2194. Folders called Train are read."""
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{parts[i // 4]}" for i in range(8)]
    data = read("path,label,split", *rows, split={"val": None, "test": "test"})
    assert sorted(data.splits["train"].ids) == [f"pics/{i}.png" for i in range(4)]
    assert sorted(data.splits["test"].ids) == [f"pics/{i}.png" for i in range(4, 8)]


def test_names_of_ones_own_for_parts_are_understood_in_any_case(read):
    rows = [
        f"pics/{i}.png,{'cat' if i % 2 else 'dog'},{('Fold1', 'FOLD2 ')[i // 4]}" for i in range(8)
    ]
    data = read("path,label,split", *rows, split={"train": "fold1", "val": None, "test": "Fold2"})
    assert sorted(data.splits["test"].ids) == [f"pics/{i}.png" for i in range(4, 8)]
