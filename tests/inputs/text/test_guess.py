"""Which columns and folders seem to hold texts."""

from __future__ import annotations

import pytest

from ftkeras.errors import UserError
from ftkeras.inputs.text.guess import Columns, columns_of, holds_texts


@pytest.mark.parametrize(
    ("name", "header", "line", "found"),
    [
        ("a.csv", "label,split,text", "{c},train,a fine film {i}", ("text", "label")),
        ("a.csv", "id;Satz;Sprache;split", "{i};ein guter Film {i};{c};train", ("Satz", "Sprache")),
        ("a.csv", '"the\nreview",stars', "so very dull {i},{c}", ("the\nreview", "stars")),
        ("a.csv", "review,id", "so very dull,{i}", ("review", "")),
        ("a.csv", "path,caption,label", "{i}.jpg,a red old car,{c}", ("", "label")),
        ("a.csv", "id,stars", "{i},{c}", ("", "")),
        ("a.jsonl", "", '{{"said": "well done {i}", "by": "{c}"}}', ("said", "by")),
    ],
)
def test_columns_are_told_by_their_cells(tmp_path, name, header, line, found):
    lines = [line.format(i=i, c="xy"[i % 2]) for i in range(20)]
    path = tmp_path / name
    path.write_text("\n".join([header, *lines] if header else lines))
    columns = columns_of(str(path), "path")
    assert (columns.text, columns.label) == found


def test_a_table_sorted_by_label_has_a_column_of_labels(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,by\n" + "so dull,bad\n" * 600 + "a fine film,good\n" * 600)
    assert columns_of(str(path), "path").label == "by"


def test_cells_that_name_files_are_no_texts(tmp_path):
    (tmp_path / "a.png").write_text("")
    path = tmp_path / "a.csv"
    path.write_text("file,caption,label\na.png,a red old car,x\n")
    assert columns_of(str(path), "path") == Columns(
        "", "label", ("caption", "label"), "file", ("caption",), count=1
    )
    assert columns_of(str(path), "").text == "caption"  # as a backbone for texts decides


@pytest.mark.parametrize(
    ("name", "header", "line", "files", "texts", "label", "separator"),
    [
        ("a.csv", "photo,caption", "p/{i}.jpg,a red old car {i}", "photo", ("caption",), "", ""),
        (
            "a.csv", "path,tags,name,licence,kind", "{i}.png,red;car,red car {i},CC BY 4.0,{c}",
            "path", ("name",), "kind", "",
        ),
        (
            "a.csv", "img,name,tags,class", "{i}.png,car {i},red|car|{i},{c}",
            "img", ("name", "tags"), "class", "|",
        ),
        (
            "a.jsonl", "", '{{"image": "{i}.png", "said": ["a car", "a red one {i}"]}}',
            "image", ("said",), "", "",
        ),
        ("a.csv", "file,species", "{i}.png,{c}", "file", (), "species", ""),
    ],
)  # fmt: skip
def test_texts_about_files_are_told_from_labels(
    tmp_path, name, header, line, files, texts, label, separator
):
    lines = [line.format(i=i, c="xy"[i % 2]) for i in range(20)]
    (tmp_path / name).write_text("\n".join([header, *lines] if header else lines))
    found = columns_of(str(tmp_path / name), "path")
    assert (found.files, found.texts, found.label) == (files, texts, label)
    assert (found.separator, found.text, found.count) == (separator, "", 20)


def test_an_example_is_no_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("I have never seen a film as good as this,good\nnot again please,bad\n" * 9)
    with pytest.raises(UserError, match="the first line of .*a.csv seems to be an example"):
        columns_of(str(path), "path")


def test_a_few_other_files_do_not_matter(tmp_path):
    (tmp_path / "good").mkdir()
    for name in ("1.txt", "2.TXT", "readme.md", ".hidden"):
        (tmp_path / "good" / name).write_text("x")
    assert holds_texts(str(tmp_path))
    (tmp_path / "good" / "3.jpg").write_text("x")
    assert not holds_texts(str(tmp_path))
