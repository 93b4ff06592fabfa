"""Hostile texts: manifests, text files and word vectors end in success or in one clear line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ftkeras.backbones.text import vectors
from ftkeras.data.load import load_data
from ftkeras.data.sources import manifest_rows
from ftkeras.errors import UserError
from ftkeras.inputs.text.input import TextInput

ROWS = [(f"{('red', 'blue')[i % 2]} text {i}", "ab"[i % 2]) for i in range(12)]
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)


def found(path: Path, source: str = "manifest"):
    return load_data(source, path=str(path), kind=TextInput(), max_bad_files=0.99)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        found(path)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CSV.encode("utf-16"), "UTF-16, not UTF-8 text. Save it as UTF-8"),
        (CSV.encode("utf-32"), "UTF-32, not UTF-8 text. Save it as UTF-8"),
        (CSV.encode("utf-16-le"), "list.csv:1: not UTF-8 text: it has zero bytes"),
        (bytes(1000), "list.csv:1: not UTF-8 text: it has zero bytes"),
        (CSV.encode() + b"caf\xe9,a\n", "not UTF-8 text"),
        (b"", "lists no texts"),
        (CSV.encode() + b'"never ends,a\n' * 5, "list.csv:15: not CSV"),
        (CSV.encode() + b'"never ends,a\n', "list.csv:14: not CSV: unexpected end of data"),
        (
            b"text,label," + b",".join(b"c%d" % i for i in range(100_000)),
            "100,002 columns; at most",
        ),
    ],
    ids=["utf-16", "utf-32", "utf-16-le", "zeros", "latin-1", "empty", "quotes", "quote", "wide"],
)
def test_a_manifest_of_something_else_is_refused(tmp_path, content, message):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    assert message in refusal(path)


@pytest.mark.parametrize("field", ["text", "label", "other", "\ud800"])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(tmp_path, field):
    lines = [{"text": text, "label": label, "other": ""} for text, label in ROWS]
    lines[3][field] = "x\ud800y"
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "list.jsonl:4: half a surrogate pair is not text" in refusal(path)


@pytest.mark.parametrize("blank", [" ", "\u200b\u200b", "\x07"])
def test_a_column_of_nothing_is_named(tmp_path, blank):
    path = tmp_path / "list.csv"
    path.write_text("text,label\n" + "".join(f"{blank},{label}\n" for _, label in ROWS))
    message = refusal(path)
    assert "none of 12 texts can be used: 12 x empty (list.csv:2" in message
    assert message.endswith("Check what data.input reads (text).") and "limit" not in message


def test_a_zero_byte_in_a_text_leaves_that_text_out(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(CSV.replace("text 3", "te\0xt 3"))
    [bad] = found(path).bad_files
    assert bad.reason == "binary, not text" and bad.where.endswith("list.csv:5")


def test_mixed_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    path, plain = tmp_path / "list.csv", tmp_path / "plain.csv"
    plain.write_text(CSV)
    path.write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n", 5).encode())
    one, other = ({k: len(v) for k, v in found(each).splits.items()} for each in (path, plain))
    assert one == other and not found(path).bad_files


def test_an_enormous_line_is_refused_before_it_is_taken_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_rows, "_MOST_OF_A_LINE", 1 << 20)
    path = tmp_path / "list.csv"
    path.write_text(CSV)
    os.truncate(path, 2 << 20)  # zeros without an end
    assert "list.csv:14: the line is longer than 1 MiB" in refusal(path)
    path.write_text(CSV * 20_000)  # large, and of short lines
    assert manifest_rows._check_bytes(path.read_bytes(), str(path)) is None


def test_an_enormous_line_of_word_vectors_is_refused(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("one 1 2\ntwo 3 4\n")
    assert list(vectors.load_vectors(str(path), ()).words) == ["one", "two"]
    os.truncate(path, 4 << 20)
    with pytest.raises(UserError, match=r"v.txt:3: the line is longer than 1 MiB"):
        vectors.load_vectors(str(path), ())


def test_class_folders_with_what_cannot_be_read(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(8):
            (tmp_path / name / f"{number}.txt").write_text(f"a {name} {number}")
    cat = tmp_path / "cat"
    os.mkfifo(cat / "pipe.txt")
    (cat / "zero.txt").symlink_to("/dev/zero")
    (cat / "gone.txt").symlink_to("nothing")
    (cat / "empty.txt").touch()
    (cat / "other.txt").write_bytes("wide".encode("utf-16"))
    (cat / "long.txt").write_bytes(b"a" * 2_000_000)
    (cat / "vast.txt").touch()
    os.truncate(cat / "vast.txt", 1 << 30)  # one line of a gigabyte
    data = found(tmp_path, "folder")
    reasons = {Path(bad.path).name: bad.reason for bad in data.bad_files}
    assert sum(map(len, data.splits.values())) == 16
    assert len(reasons) == 7 and all(reasons.values())
    assert reasons["vast.txt"] == "file of 1024 MiB; the limit is 256 MiB"
    assert reasons["other.txt"] == "UTF-16, not UTF-8 text; save it as UTF-8"
    assert reasons["long.txt"] == "longer than 1,000,000 bytes"
    assert reasons["empty.txt"] == "empty"
