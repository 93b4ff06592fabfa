from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.load import load_data
from ftkeras.errors import UserError
from ftkeras.inputs.image.decode import whole


def test_a_folder_becomes_splits(make_folder):
    data = load_data("folder", path=str(make_folder({"cat": 20, "dog": 20})), seed=3)
    assert data.class_names == ("cat", "dog") and data.outputs["label"].exclusive
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 28,
        "val": 6,
        "test": 6,
    }
    for split in data.splits.values():
        assert split.labels.dtype == np.int32
        for key, label in zip(split.ids, split.labels, strict=True):
            assert key.startswith(data.class_names[label] + "/")


def test_an_image_is_fetched_by_its_place_in_the_split(make_folder):
    path = make_folder({"cat": 10, "dog": 10})
    split = load_data("folder", path=str(path)).splits["val"]
    for i, key in enumerate(split.ids):
        expected = tf.io.decode_png((path / key).read_bytes())
        np.testing.assert_array_equal(whole(split.fetch(tf.constant(i, tf.int64))), expected)


def test_bad_files_are_left_out_and_listed(make_folder):
    path = make_folder({"cat": 20, "dog": 20})
    (path / "cat" / "3.png").write_bytes(b"")
    data = load_data("folder", path=str(path))
    assert [(file.path, file.reason) for file in data.bad_files] == [
        (str(path / "cat" / "3.png"), "empty file")
    ]
    assert sum(map(len, data.splits.values())) == 39
    assert not any("cat/3.png" in split.ids for split in data.splits.values())


def test_too_many_bad_files(make_folder):
    path = make_folder({"cat": 10, "dog": 10})
    for name in ("0.png", "1.png"):
        (path / "cat" / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 20 images .* 2 x empty file \(.*0\.png, .*1\.png\)"):
        load_data("folder", path=str(path))
    assert len(load_data("folder", path=str(path), max_bad_files=0.1).bad_files) == 2


def test_no_limit_is_advised_if_nothing_can_be_used(make_folder):
    path = make_folder({"cat": 2, "dog": 2})
    for file in path.glob("*/*.png"):
        file.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"none of 4 images .*: 4 x empty file .* Check the files.$"
    ):
        load_data("folder", path=str(path), max_bad_files=1.0)


def test_a_class_of_bad_files_alone(make_folder):
    path = make_folder({"cat": 30, "dog": 1, "fox": 30})
    (path / "dog" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match="class 'dog' has no usable image"):
        load_data("folder", path=str(path))


def test_one_class_only(make_folder):
    with pytest.raises(UserError, match="all images have one label, 'cat'"):
        load_data("folder", path=str(make_folder({"cat": 5})))


def test_a_folder_one_level_too_high(make_folder):
    path = make_folder({"all/cat": 5, "all/dog": 5})
    with pytest.raises(UserError, match=f"Did you mean data.path={path}/all, which has 2 folders"):
        load_data("folder", path=str(path))


def test_a_folder_one_level_too_many(make_folder):
    path = make_folder({"asia/japan": 4, "asia/india": 4, "europe/all": 8})
    [note] = load_data("folder", path=str(path)).notes
    assert note.startswith("Images lie in subfolders, such as asia/india; they count as asia.")


def test_a_label_that_training_does_not_have(make_folder):
    counts = {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/fox": 1}
    with pytest.raises(UserError, match=r"label 'fox' of val/fox/0\.png is missing from training"):
        load_data("folder", path=str(make_folder(counts)))


def test_a_label_of_a_manifest_that_training_does_not_have(make_folder):
    path = make_folder({"cat": 2, "dog": 2})
    (path / "list.csv").write_text(
        "path,label,split\ncat/0.png,cat,train\ncat/1.png,cat,val\n"
        "dog/0.png,dog,train\ndog/1.png,fox,test\n"
    )
    with pytest.raises(UserError, match=r"label 'fox' of dog/1\.png \(test\) is missing"):
        load_data("manifest", path=str(path / "list.csv"))


def test_an_unknown_source():
    with pytest.raises(UserError, match="no source 'foldr'. Did you mean 'folder'"):
        load_data("foldr", path="x")


def test_imbalance_is_noted(make_folder):
    data = load_data("folder", path=str(make_folder({"cat": 22, "dog": 2})), split={"val": None})
    assert len(data.notes) == 1
    assert "'cat' has 22 training images and 'dog' has 2" in data.notes[0]
    even = load_data("folder", path=str(make_folder({"cat": 20, "dog": 2}, "even")), split={})
    assert even.notes == ()
