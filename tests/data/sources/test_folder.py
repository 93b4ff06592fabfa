from __future__ import annotations

import shutil

import pytest

from ftkeras.data.sources import folder
from ftkeras.errors import UserError
from ftkeras.inputs.image.input import ImageInput

IMAGES = ImageInput()


def test_classes_are_folders_and_other_files_are_ignored(make_folder):
    path = make_folder({"dog": 2, "cat/indoors": 1, ".git": 1, "__MACOSX": 1})
    (path / "cat" / "notes.txt").write_text("mine")
    (path / "cat" / "Thumbs.db").write_bytes(b"db")
    (path / "cat" / "._0.png").write_bytes(b"resource fork")
    (path / "empty").mkdir()
    found = folder.find(kind=IMAGES, path=f"{path}/", parts={})
    assert found.class_names == ["cat", "dog"]
    assert found.ids == ["cat/indoors/0.png", "dog/0.png", "dog/1.png"]
    assert found.labels == [("cat",), ("dog",), ("dog",)]
    assert set(found.parts) == {""} and found.bad_files == ()


def test_parts_are_recognised(make_folder):
    path = make_folder({"train/a": 1, "train/b": 1, "validation/a": 1, "Test/b": 1, "extra/a": 1})
    found = folder.find(kind=IMAGES, path=str(path), parts={})
    assert dict(zip(found.ids, found.parts, strict=True)) == {
        "train/a/0.png": "train",
        "train/b/0.png": "train",
        "validation/a/0.png": "val",
        "Test/b/0.png": "test",
    }
    assert found.notes == ("Folders beside train that are not used: extra.",)


def test_parts_may_have_names_of_their_own(make_folder):
    path = make_folder({"train/a": 1, "train/b": 1, "holdout/a": 1})
    found = folder.find(kind=IMAGES, path=str(path), parts={"test": "holdout"})
    assert found.parts == ["train", "train", "test"]
    with pytest.raises(UserError, match="no folder 'holdoud'.*Did you mean 'holdout'"):
        folder.find(kind=IMAGES, path=str(path), parts={"test": "holdoud"})


def test_a_class_may_be_called_train(make_folder):
    found = folder.find(kind=IMAGES, path=str(make_folder({"train": 2, "bus": 1})), parts={})
    assert found.class_names == ["bus", "train"] and set(found.parts) == {""}


@pytest.mark.parametrize(
    ("counts", "message"),
    [({}, "is not there"), ({".": 2}, "lie in no class folders")],
)
def test_a_folder_that_is_no_data_set(make_folder, tmp_path, counts, message):
    make_folder(counts)
    with pytest.raises(UserError, match=message):
        folder.find(kind=IMAGES, path=str(tmp_path / "photos"), parts={})


def test_a_folder_without_images(make_folder):
    path = make_folder({"cat": 1})
    shutil.move(path / "cat" / "0.png", path / "cat" / "0.txt")
    with pytest.raises(UserError, match="no images in"):
        folder.find(kind=IMAGES, path=str(path), parts={})
    with pytest.raises(UserError, match="is a file"):
        folder.find(kind=IMAGES, path=str(path / "cat" / "0.txt"), parts={})
