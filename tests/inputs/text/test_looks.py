"""Checks of texts, each with a planted fault and without one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.inputs.text.input import TextInput
from ftkeras.inputs.text.looks import find_odd, measure
from ftkeras.inputs.text.tokens import SPECIAL, Tokens

RUSSIAN = "\u043a\u043e\u0442 \u0438 \u043f\u0451\u0441 \u0432 \u0434\u043e\u043c\u0435"


def kind(length: int = 32, words: tuple[str, ...] = (), by: str = "words") -> TextInput:
    return TextInput(Tokens(by, (*SPECIAL, *words), length))


def odd(look, texts, labels=None, splits=None, kind: TextInput | None = None):
    labels = labels or ["x", "y"] * (len(texts) // 2)
    looks, names = look(texts, labels, splits, kind)
    return {f.check: f for f in find_odd(looks, names, kind or TextInput())}


@pytest.fixture
def texts(sentence) -> list[str]:
    return [sentence(i) for i in range(60)]


@pytest.mark.parametrize("columns", [("text",), ("title", "body")])
def test_what_is_seen_of_a_text(columns):
    tokens = Tokens("words", (*SPECIAL, "a", "b"), 6, parts=len(columns))
    kind = TextInput(tokens, columns)
    raw = tf.constant(kind.in_cells(["A b, c", "\u00c4 b a a a"][: len(columns)]))
    begin, content, length, read, strange = measure(raw, kind)
    assert begin == raw
    # Of four words a sign and one word are strange; a separator never is.
    expected = [4, 4, 2] if len(columns) == 1 else [10, 5, 1]
    assert [int(length), int(read), int(strange)] == expected
    assert measure(tf.strings.upper(raw, "utf-8"), kind)[1] == content
    assert [int(x) for x in measure(raw, TextInput(columns=columns))[2:]] == [0, 0, 0]


def test_ordinary_texts_are_not_odd(look, texts):
    known = tuple(dict.fromkeys(" ".join(texts).split()))
    assert odd(look, texts, kind=kind(words=known)) == {}


def test_texts_without_words_and_very_short_ones_are_named(look, texts):
    found = odd(look, [*texts, "?!", "hm", "ah oh"], ["x", "y"] * 31 + ["x"])
    assert {name: [row.name for row in f.evidence] for name, f in found.items()} == {
        "texts without words": ["texts.csv:62"],
        "very short texts": ["texts.csv:63", "texts.csv:64"],
    }
    assert found["very short texts"].evidence[1].detail == "2 words"


def test_where_all_are_short_none_is_too_short(look):
    assert odd(look, ["good", "bad", "very good", "so so"] * 10, ["x"] * 20 + ["y"] * 20) == {}


def test_other_scripts_are_a_note_and_a_warning_if_they_give_the_class_away(look, texts):
    mixed = texts[:54] + [RUSSIAN + f" {i}" for i in range(6)]
    found = odd(look, mixed)
    assert [(name, f.severity) for name, f in found.items()] == [("mixed scripts", "note")]
    assert found["mixed scripts"].evidence[0].detail == "Cyrillic"
    assert found["mixed scripts"].message == "Texts are in 2 scripts (54 Latin, 6 Cyrillic)."
    told = odd(look, mixed, ["x"] * 48 + ["ru"] * 12)
    assert told["mixed scripts"].severity == "note"  # half of them
    told = odd(look, texts[:40] + [RUSSIAN + f" {i}" for i in range(20)], ["x"] * 40 + ["ru"] * 20)
    assert told["mixed scripts"].severity == "warning"
    assert "100% of class ru are not in Latin, 0% elsewhere" in told["mixed scripts"].message


def test_one_odd_name_is_no_mixture(look, texts):
    assert odd(look, [*texts[:59], RUSSIAN]) == {}


def test_a_split_that_is_mostly_cut_is_named(look, sentence):
    texts = [sentence(i, 10) for i in range(40)] + [sentence(i + 40, 30) for i in range(20)]
    splits = ["train"] * 40 + ["test"] * 20
    known = tuple(dict.fromkeys(" ".join(texts).split()))
    found = odd(look, texts, splits=splits, kind=kind(16, known))
    assert list(found) == ["truncated texts"]
    assert "20 of 20 (100.0%) test texts are longer than the 16 words" in (
        found["truncated texts"].message
    )
    assert odd(look, texts, splits=splits, kind=kind(30, known)) == {}


def test_tokens_that_the_model_does_not_know_are_named(look, texts):
    known = tuple(dict.fromkeys(" ".join(texts).split()))
    splits = ["train"] * 40 + ["test"] * 20
    changed = texts[:40] + [text.replace(" ", " zz ") for text in texts[40:]]
    found = odd(look, changed, splits=splits, kind=kind(64, known))
    assert list(found) == ["unknown tokens"]
    message = found["unknown tokens"].message
    assert "words that are read of test texts" in message and "such as 'zz'." in message
    a_tenth = texts[:40] + [text + " zz zz" for text in texts[40:]]
    assert odd(look, a_tenth, splits=splits, kind=kind(64, known)) == {}


def test_characters_that_the_model_does_not_know_are_named(look, texts):
    letters = tuple("abcdefghijklmnopqrstu ")
    assert odd(look, texts, kind=kind(400, letters, "characters")) == {}
    found = odd(look, texts, kind=kind(400, tuple("bcdfgh "), "characters"))
    assert "characters that are read" in found["unknown tokens"].message


def test_class_names_that_stand_in_their_texts_are_named(look, texts):
    labels = ["sports", "animals", "other topics"] * 20
    told = [
        f"{text} a sport" if label == "sports" and i % 5 else text
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    found = odd(look, told, labels)
    assert list(found) == ["class names in texts"]
    [row] = found["class names in texts"].evidence
    assert (row.name, row.detail) == (
        "sports", "its name is in 80% of its texts, in 0.0% of others"
    )  # fmt: skip
    assert odd(look, [f"{text} a sport" for text in texts], labels) == {}  # all say it
    few = [f"{text} a sport" if i % 6 == 0 else text for i, text in enumerate(texts)]
    assert odd(look, few, labels) == {}  # half of its texts


def test_a_name_of_several_words_needs_all_of_them(look, texts):
    labels = ["x", "real_estate"] * 30
    one = [text + " real" * (i % 2) for i, text in enumerate(texts)]
    assert "class names in texts" not in odd(look, one, labels)
    both = [text + " estates, real" * (i % 2) for i, text in enumerate(texts)]
    assert odd(look, both, labels)["class names in texts"].evidence[0].name == "real_estate"


def test_numbers_and_short_names_are_no_leaks(look, texts):
    labels = ["1", "no"] * 30
    told = [f"{text} {label}" for text, label in zip(texts, labels, strict=True)]
    assert "class names in texts" not in odd(look, told, labels)


def test_a_word_that_gives_the_source_away_is_named(look, texts):
    labels = ["ham", "spam"] * 30
    marked = [text + " Xpost" * (label == "spam")
              for text, label in zip(texts, labels, strict=True)]  # fmt: skip
    found = odd(look, marked, labels)
    assert list(found) == ["telling words"]
    assert (
        str(found["telling words"].evidence[0]) == "spam  ('xpost' is in 100%, in 0.0% of others)"
    )
    marked[0] += " xpost"  # one of thirty others
    assert odd(look, marked, labels) == {}


def test_texts_with_several_labels_are_looked_at_too(look, texts):
    labels = ["a;b", "a", "b", "b;ccc", "ccc", "a"] * 10
    told = [text + " ccc" * ("ccc" in label) for text, label in zip(texts, labels, strict=True)]
    found = odd(look, told, labels)
    assert [row.name for row in found["class names in texts"].evidence] == ["ccc"]
    looks, _ = look(told, labels)
    assert looks.labels.shape == (60, 3)
    assert np.count_nonzero(looks.labels) == 80
