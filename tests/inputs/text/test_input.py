"""What is a text, how it is checked, varied and batched."""

from __future__ import annotations

import codecs

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import Examples, batches
from ftkeras.data.reading import from_array
from ftkeras.errors import UserError
from ftkeras.inputs.base import PLAIN, View
from ftkeras.inputs.registry import make_input
from ftkeras.inputs.text import golden
from ftkeras.inputs.text.check import MOST_CHARACTERS, examine
from ftkeras.inputs.text.input import TextInput
from ftkeras.inputs.text.tokens import SPECIAL, Tokens
from ftkeras.inputs.text.vary import vary

NAMES = tuple(f"w{i}" for i in range(40))
KIND = TextInput(Tokens("words", (*SPECIAL, *NAMES), length=24), drop=0.2, swap=0.2)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"fine", ""),
        ("caf\u00e9 \u4f60".encode(), ""),
        (codecs.BOM_UTF8 + b"fine", ""),
        ("a replacement \ufffd sign".encode(), ""),
        (b"", "empty"),
        (b" \t\r\n", "empty"),
        (codecs.BOM_UTF8, "empty"),
        ("\u200b\u00a0".encode(), "empty"),
        ("caf\u00e9".encode("latin-1"), "not UTF-8 text"),
        (b"\xed\xa0\x80", "not UTF-8 text"),  # half a surrogate pair
        (b"\xc0\xaf", "not UTF-8 text"),  # an overlong form
        ("fine".encode("utf-16"), "UTF-16, not UTF-8 text; save it as UTF-8"),
        ("fine".encode("utf-32"), "UTF-32, not UTF-8 text; save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8 text"),
        (b"f\x00i\x00n\x00e\x00", "binary, not text"),  # UTF-16 without its mark
        (b"\x00", "binary, not text"),
        (b"x" * (MOST_CHARACTERS + 1), "longer than 1,000,000 bytes"),
        (b"\xff" * (MOST_CHARACTERS + 1), "longer than 1,000,000 bytes"),
    ],
)
def test_what_can_be_read(raw, reason):
    assert examine(raw) == reason
    verdict = KIND.check(raw, "a.txt", "")
    assert (verdict.path, verdict.reason) == ("a.txt", reason)


def test_golden_texts_are_read_and_the_others_are_told():
    assert not any(map(examine, golden.golden().values()))
    for name, raw in golden.refused().items():
        assert golden.is_told(name, golden.why_not(tf.constant(raw)).numpy().decode())
    assert set(golden.WARM_UP) <= set(golden.golden())
    assert len(golden.golden()["long"]) > 100_000


def test_what_cannot_be_read_ends_reading():
    for raw in golden.refused().values():
        with pytest.raises(tf.errors.InvalidArgumentError):
            KIND.read(tf.constant(raw), PLAIN, tf.zeros(2, tf.int32))


def test_a_byte_order_mark_is_no_part_of_a_text():
    plain, marked = (
        KIND.read(tf.constant(raw), PLAIN, tf.zeros(2, tf.int32)).numpy().tolist()
        for raw in (b"w1 w2", codecs.BOM_UTF8 + b"w1 w2")
    )
    assert plain == marked == [4, 5]


def test_names_of_files():
    names = {"a.txt": True, "x/B.TXT": True, ".a.txt": False, "a.jpg": False, "txt": False}
    assert {name: KIND.accepts(name) for name in names} == names


def test_variation_follows_from_the_key_alone():
    ids = tf.range(40)
    view = View(("none", "varied"), tf.constant(1))
    one, same, other = (
        KIND.prepare(ids, view, tf.constant([k, 7])).numpy().tolist() for k in (1, 1, 2)
    )
    assert one == same != other
    assert KIND.prepare(
        ids, View(("none", "varied"), tf.constant(0)), tf.constant([1, 7])
    ).numpy().tolist() == (list(range(40)))


def test_tokens_are_dropped_and_swapped_as_often_as_asked():
    ids, left, moved = tf.range(41), [], []
    for k in range(200):
        left.append(len(vary(ids, tf.constant([k, 0]), drop=0.3, swap=0.0)))
        swapped = vary(ids, tf.constant([k, 0]), drop=0.0, swap=0.2).numpy()
        assert sorted(swapped) == list(range(41))
        moved.append((swapped[:-1] > swapped[1:]).sum())  # a swap leaves one step down
        assert np.abs(swapped - np.arange(41)).max() <= 1
    assert np.mean(left) == pytest.approx(41 * 0.7, rel=0.03)
    assert np.mean(moved) == pytest.approx(40 * 0.2, rel=0.1)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_short_texts_are_varied_too(count):
    varied = vary(tf.range(count), tf.constant([3, 1]), drop=0.9, swap=0.5).numpy()
    assert set(varied) <= set(range(count)) and len(varied) >= min(count, 1)


def texts(lengths: list[int]) -> Split:
    raw = np.array([" ".join(NAMES[:n]).encode() for n in lengths], object)
    labels = np.arange(len(lengths), dtype=np.int32) % 2
    names = list(map(str, lengths))
    return Split("train", names, labels, 2, from_array(raw)(np.arange(len(lengths))))


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_batches_have_one_of_six_lengths_and_lose_nothing(cache):
    lengths = [1, 3, 4, 5, 9, 2, 17, 1, 30, 1]
    split = texts(lengths)
    found = list(batches(split, Examples(split, KIND, cache=cache), 2).as_numpy_iterator())
    assert [ids.shape[1] for ids, _ in found] == [4, 8, 12, 20, 24]  # of 4, 8, ..., 24
    rows = [row[row > 0].tolist() for ids, _ in found for row in ids]
    assert rows == [list(range(3, 3 + min(n, 24))) for n in lengths]
    assert all((ids[:, -1:] == 0).all() or (ids != 0).any() for ids, _ in found)


def test_settings_from_a_config():
    kind = make_input("text", {"column": "review", "variation": {"drop": 0.1}})
    assert kind.cells == ("review",) and kind.views == ("none", "varied")
    assert make_input("text", {"columns": ["a", "b"]}).in_cells(["x", "y\x1ez"]) == b"x\x1ey z"
    for settings in ({"colum": "x"}, {"length": 1}, {"tokens": "bytes"}):
        with pytest.raises(UserError, match="data.input"):
            make_input("text", settings)


def test_arrays_of_texts():
    kept = KIND.check_array(np.array(["a", "\u00e9"]), "x.npz: texts")
    assert kept.tolist() == [b"a", "\u00e9".encode()]
    with pytest.raises(UserError, match="x is float64; texts are an array of strings"):
        KIND.check_array(np.zeros(3), "x")
    with pytest.raises(UserError, match="must be one string per text"):
        KIND.check_array(np.array([["a", "b"]]), "x")


@pytest.mark.parametrize(("bad", "reason"), [(b"", "empty"), (b"caf\xe9", "not UTF-8 text")])
def test_an_array_with_a_text_that_cannot_be_read_is_refused_by_its_place(bad, reason):
    with pytest.raises(UserError, match=rf"texts\[1\] cannot be used: {reason}"):
        KIND.check_array(np.array([b"fine", bad]), "x.npz: texts")


@pytest.mark.parametrize(
    "raw", [b"ok", b"\xc3(", b" a\0", "\u4f60".encode(), b"\x80", b"x" * 2_000_000]
)
def test_the_quick_decision_is_that_of_the_graph(raw):
    from ftkeras.inputs.text.check import why_not

    assert examine(raw) == why_not(tf.constant(raw)).numpy().decode()
