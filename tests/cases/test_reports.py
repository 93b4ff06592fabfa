"""Cases 27 to 34: what people who fine-tune with other tools ran into, in names and folders."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from ftkeras import UserError, load_data
from ftkeras.data.dataset import Data
from ftkeras.data.spelling import plain

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
Table = Callable[..., Data]


@pytest.fixture
def folder(tmp_path, draw) -> Callable[..., Data]:
    """A function that draws 4 images into each folder and loads them all."""

    def load(*names: str) -> Data:
        draw(tmp_path, dict.fromkeys(names, 4))
        return load_data("folder", path=str(tmp_path))

    return load


# ----------------------------------------------- 27 and 28: one name in several spellings


@pytest.mark.parametrize(
    ("one", "other"),
    [("01", "1"), ("1", "1.0"), ("NaN", "nan"), ("True", "true"), (COMPOSED, DECOMPOSED)],
)
def test_spellings_of_one_name_are_alike(one, other):
    """Source: fastai/fastai 1008, what is written `01` is read as 1."""
    assert plain(one) == plain(other)


@pytest.mark.parametrize(
    ("one", "other"), [("1", "-1"), ("1.0", "10"), ("1.5", "15"), ("cafe", "café"), ("c++", "")]
)
def test_different_names_are_not_alike(one, other):
    assert plain(one) != plain(other)


def test_classes_that_look_alike_are_pointed_out_before_training(place, draw, ftkeras):
    draw(Path("photos"), {"01": 4, "1": 4, "10": 4})
    done = ftkeras("plan", "--config=c.yaml")
    assert "classes '01' and '1' look like one name in several spellings" in done.out
    assert done.out.count("in several spellings") == 1


@pytest.mark.parametrize(
    ("trained", "tested"), [("Cat", "cat"), (COMPOSED, DECOMPOSED), ("cat ", "cat"), ("1", "01")]
)
def test_a_label_that_training_spells_differently_is_explained(folder, read, trained, tested):
    """Source: tensorflow/tensorflow 50124 and ultralytics/ultralytics 14301, shifted labels."""
    with pytest.raises(UserError) as error:
        folder(f"train/{trained}", "train/dog", f"test/{tested}", "test/dog")
    assert f"Training has {trained!r}, which looks like the same name." in str(error.value)
    if trained.strip() == trained:  # a table's labels have no spaces around them
        rows = [f"pics/{i}.png,{trained if i % 2 else 'dog'},train" for i in range(7)]
        with pytest.raises(UserError, match=f"Training has {trained!r}"):
            read("path,label,split", *rows, f"pics/7.png,{tested},test")


def test_a_label_that_training_lacks_has_no_other_spelling(folder):
    with pytest.raises(UserError, match=r"missing from training\. Add"):
        folder("train/cat", "train/dog", "test/fox")


# ------------------------------------------------------------------ 29, 30 and 33: tables


def test_spaces_around_a_path_are_not_part_of_it(read):
    """Source: ludwig-ai/ludwig 83, a space after the comma."""
    data = read("path, label", *(f" pics/{i}.png , {'a' if i % 2 else 'b'}" for i in range(8)))
    assert sorted(key for split in data.splits.values() for key in split.ids) == [
        f"pics/{i}.png" for i in range(8)
    ]
    assert data.class_names == ("a", "b")


def test_spaces_that_a_file_is_named_with_stay(read):
    Path("pics/0.png").rename(" spaced.png")
    rows = [f"pics/{i}.png,{'a' if i % 2 else 'b'}" for i in range(1, 8)]
    data = read("path,label", *rows, " spaced.png,b")
    assert " spaced.png" in {key for split in data.splits.values() for key in split.ids}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["path,label,label", "pics/0.png,cat,x"]),
        ("a.csv", ["path,path,label", "pics/0.png,pics/1.png,cat"]),
        ("a.csv", ["path,label,kg, kg", "pics/0.png,cat,1,2"]),
        ("a.jsonl", ['{"path": "pics/0.png", "label": "cat", "label": "x"}']),
    ],
)
def test_a_column_that_is_there_twice_is_refused(read, name, lines):
    """Source: this project, while fastai/fastai 1008 was tried: the last column won."""
    with pytest.raises(UserError, match="there are 2 columns '(path|label|kg)'. Rename or remove"):
        read(*lines, name=name)


def test_columns_without_a_name_may_be_several(read):
    rows = [f"{i},pics/{i}.png,{'a' if i % 2 else 'b'}," for i in range(8)]
    assert read(",path,label,", *rows).class_names == ("a", "b")


def test_json_with_another_column_of_objects_is_read(read):
    lines = [
        json.dumps({"path": f"pics/{i}.png", "label": "ab"[i % 2], "box": {"label": 1}})
        for i in range(8)
    ]
    assert read(*lines, name="a.jsonl").class_names == ("a", "b")


@pytest.mark.parametrize("cell", ["nan", "inf", "N/A", "1,5"])
def test_a_number_that_is_none_is_refused_with_its_image(place, ftkeras, cell):
    """Source: Nixtla/neuralforecast 186, the loss is NaN and nothing points to the data."""
    rows = [["path", "age"], *([f"photos/cat/{i}.png", str(i)] for i in range(19))]
    with Path("ages.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*rows, ["photos/cat/19.png", cell]])
    sets = ["data={source: manifest, path: ages.csv, input: {size: 16}}", "outputs={age: number}"]
    done = ftkeras("train", "--config=c.yaml", "--out=r", *(f"--set={one}" for one in sets))
    assert done.status == 2 and f"{cell!r} of photos/cat/19.png is not a number" in done.err
    assert not Path("r").exists()


# ----------------------------------------------------------------- 31 and 32: folders


def test_a_class_may_begin_with_underscores(folder):
    """Source: this project, while tensorflow/tensorflow 46595 was tried."""
    data = folder("__background__", "_noise_", "cat")
    assert data.class_names == ("__background__", "_noise_", "cat")


@pytest.mark.parametrize("system", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git"])
def test_what_a_system_writes_beside_images_is_no_class_and_no_image(folder, system):
    """Source: tensorflow/tensorflow 46595, googlecolab/colabtools 1824."""
    data = folder("cat", "dog", system, f"cat/{system}", f"dog/{system}/0.png")
    assert data.class_names == ("cat", "dog")
    assert sum(map(len, data.splits.values())) == 8


@pytest.mark.parametrize("train", [".", "train"])
def test_a_class_folder_without_images_is_spoken_of(folder, tmp_path, train):
    """Source: pytorch/vision 4925, huggingface/pytorch-image-models 957."""
    (tmp_path / train / "fox").mkdir(parents=True)
    (tmp_path / train / "owl").mkdir()
    (tmp_path / train / "owl" / "notes.txt").write_text("no image")
    data = folder(f"{train}/cat", f"{train}/dog")
    assert data.class_names == ("cat", "dog")
    [note] = [note for note in data.notes if "no class" in note]
    assert "fox, owl" in note


# --------------------------------------------------------------- 34: names in answers


def test_odd_file_names_come_back_whole_from_predict(place, draw, ftkeras):
    """Source: elisemercury/Duplicate-Image-Finder 94, brackets are taken for a pattern."""
    draw(Path("."), {"new [1]": 6})
    odd = ["two\nlines.png", "a,b.png", "100%.png", 'q"uote.png', " [x]*.png", "ü.png"]
    for i, name in enumerate(odd):
        Path(f"new [1]/{i}.png").rename(f"new [1]/{name}")
    done = ftkeras("predict", "first run", "new [1]", "--out=a.csv")
    with Path("a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert done.status == 0
    assert sorted(row["file"] for row in rows) == sorted(f"new [1]/{name}" for name in odd)
    assert all(row["class"] in {"cat", "dog"} and not row["error"] for row in rows)
