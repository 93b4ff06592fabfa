from __future__ import annotations

import json

import pytest

from ftkeras.data.load import load_data
from ftkeras.data.sources import manifest
from ftkeras.errors import UserError
from ftkeras.inputs.image.input import ImageInput

IMAGES = ImageInput()


@pytest.fixture
def write(make_folder):
    """Writes a manifest beside cat/0.png to cat/3.png and dog/0.png to dog/3.png."""
    folder = make_folder({"cat": 4, "dog": 4})

    def make(text: str, name: str = "list.csv") -> str:
        (folder / name).write_text(text)
        return str(folder / name)

    return make


def test_csv_with_all_columns(write):
    path = write(
        "path,label,split,weight\ncat/0.png,cat,train,2\ndog/0.png,dog,,\ndog/1.png,dog,valid,0.5\n"
    )
    found = manifest.find(kind=IMAGES, path=path, parts={})
    assert found.ids == ["cat/0.png", "dog/0.png", "dog/1.png"]
    assert found.labels == [("cat",), ("dog",), ("dog",)]
    assert found.parts == ["train", "", "val"]
    assert found.weights.tolist() == [2.0, 1.0, 0.5]


def test_further_columns_are_kept_by_split(write):
    rows = [
        f"{animal}/{i}.png,{animal},{part},{camera}"
        for animal in ("cat", "dog")
        for i, (part, camera) in enumerate([("train", "old"), ("train", "new"), ("test", "x")])
    ]
    path = write("\n".join(["path,label,split,camera", *rows]) + "\n")
    data = load_data("manifest", path=path, split={"val": None, "test": "test"})
    assert data.splits["train"].columns["camera"].tolist() == ["old", "new"] * 2
    assert data.splits["test"].columns["camera"].tolist() == ["x", "x"]
    lines = [{"path": f"{a}/0.png", "label": a, "width": 3} for a in ("cat", "dog")]
    lines[1].pop("width")
    found = manifest.find(
        kind=IMAGES, path=write("\n".join(map(json.dumps, lines)), "a.jsonl"), parts={}
    )
    assert {name: column.tolist() for name, column in found.columns.items()} == {"width": ["3", ""]}


def test_json_lines_with_label_lists(write):
    rows = [
        {"file": "cat/0.png", "tags": ["cat", "indoors", "cat"]},
        {"file": "dog/0.png", "tags": []},
    ]
    path = write("\n".join(map(json.dumps, rows)) + "\n\n", "list.jsonl")
    found = manifest.find(
        kind=IMAGES,
        path=path,
        parts={},
        image_column="file",
        label_column="tags",
        multi_label=True,
    )
    assert found.labels == [("cat", "indoors"), ()]
    assert found.class_names == ["cat", "indoors"] and found.weights is None


def test_several_labels_in_csv_end_to_end(write):
    lines = [f"{kind}/{i}.png,{kind};animal" for kind in ("cat", "dog") for i in range(4)]
    path = write("path,label\n" + "\n".join(lines))
    data = load_data("manifest", path=path, multi_label=True, split={"val": 0.25})
    assert data.class_names == ("animal", "cat", "dog")
    assert data.splits["train"].labels.shape == (6, 3)
    assert (data.splits["train"].labels[:, 0] == 1.0).all()


def test_parts_may_have_names_of_their_own(write):
    path = write("path,label,split\ncat/0.png,cat,fold1\ndog/0.png,dog,fold2\n")
    found = manifest.find(kind=IMAGES, path=path, parts={"train": "fold1", "test": "fold2"})
    assert found.parts == ["train", "test"]
    with pytest.raises(UserError, match="no line of .* has the split 'fold3'"):
        manifest.find(
            kind=IMAGES, path=path, parts={"train": "fold1", "val": "fold2", "test": "fold3"}
        )


def test_a_missing_image_is_a_bad_file_with_its_line(write):
    path = write("path,label\ncat/0.png,cat\ndog/9.png,dog\n")
    found = manifest.find(kind=IMAGES, path=path, parts={})
    assert [(bad.path, bad.why) for bad in found.bad_files] == [
        ("dog/9.png", f"no such file ({path}:3)")
    ]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("path,lable\na.png,cat\n", "x.csv", r"x.csv:2: there is no column 'label'. Did you mean"),
        (
            "a.png,cat\nb.png,dog\n",
            "x.csv",
            r"The first line is read as the names of the columns: a.png, cat. data.image_column",
        ),
        ("path,label\na.png,cat\na,b,c\n", "x.csv", r"x.csv:3: .* not as many fields"),
        ("path,label\na.png,\n", "x.csv", r"x.csv:2: label must be one label, not ''"),
        ("path,label\n,cat\n", "x.csv", r"x.csv:2: path must be the path of a file"),
        ("path,label,split\na,b,tset\n", "x.csv", r"x.csv:2: split is 'tset'.*mean 'test'"),
        ("path,label,weight\na,b,heavy\n", "x.csv", r"x.csv:2: weight must be a number"),
        ("path,label,weight\na,b,-1\n", "x.csv", r"x.csv:2: weight must be a number"),
        ("path,label,weight\na,b,nan\n", "x.csv", r"x.csv:2: weight must be a number"),
        ("path,label\n", "x.csv", r"x.csv: the manifest lists no images"),
        ('path,label\n"a,b\n', "x.csv", r"x.csv:2: not CSV"),
        ("{}\n[1]\n", "x.jsonl", r"x.jsonl:1: there is no column 'path'"),
        ('{"path": "a", "label": "b"}\n[1]\n', "x.jsonl", r"x.jsonl:2: each line must be a JSON"),
        ('{"path": "a", "label":\n', "x.jsonl", r"x.jsonl:1: not JSON"),
        ('{"path": "a", "label": ["b"]}\n', "x.jsonl", r"x.jsonl:1: .* Set data.multi_label"),
        ("path,label\n", "x.txt", r"must end in .csv, .tsv or .jsonl"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(write, text, name, message):
    with pytest.raises(UserError, match=message):
        manifest.find(kind=IMAGES, path=write(text, name), parts={})


def test_a_missing_manifest(tmp_path):
    with pytest.raises(UserError, match="no readable file"):
        manifest.find(kind=IMAGES, path=str(tmp_path / "list.csv"), parts={})
