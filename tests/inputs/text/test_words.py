from __future__ import annotations

import numpy as np
import pytest

from ftkeras.inputs.text.words import Words, script_of, stem, words_in


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Subject: Re: NASA's e-mail_2", ["subject", ":", "re", ":", "nasa", "'", "s", "e", "-",
                                          "mail", "_", "2"]),
        ("\u732b\u304c\u597d\u304d", ["\u732b", "\u304c", "\u597d", "\u304d"]),  # no spaces
        ("\ufb01n \uff21\uff22", ["fin", "ab"]),  # a ligature, and wide letters
        ("", []),
    ],
)  # fmt: skip
def test_words_are_found_in_any_writing(text, words):
    assert words_in(text) == words


def test_scripts_are_told_by_the_first_letter():
    words = {"hi": "Latin", "\u043f\u0440": "Cyrillic", "\u732b": "Han and Kana", "42": ""}
    words |= {"\u3042": "Han and Kana", "\u0645": "Arabic", "4th": "Latin"}
    assert {word: script_of(word) for word in words} == words


def test_a_stem_is_that_of_the_plural_too():
    assert stem("animals") == stem("animal")
    assert stem("feelings") == stem("feeling")
    assert stem("class") == "class" and stem("thing") == "thing"


def test_what_is_known_of_each_text():
    words = Words.of(["a b a!", "", "??", "\u043f\u0440 x \u043f\u0440", "b"])
    assert len(words) == 5
    assert words.counts.tolist() == [3, 0, 0, 3, 1]
    assert words.script.tolist() == ["Latin", "", "", "Cyrillic", "Latin"]
    rows, numbers = words.once
    found = sorted((row, words.vocabulary[i]) for row, i in zip(rows, numbers, strict=True))
    assert found == [
        (0, "!"), (0, "a"), (0, "b"), (2, "?"), (3, "x"), (3, "\u043f\u0440"), (4, "b")
    ]  # fmt: skip
    assert np.bincount(words.rows, minlength=5).tolist() == [4, 0, 2, 3, 1]


def test_no_texts_and_texts_of_nothing_are_fine():
    assert len(Words.of([])) == 0
    nothing = Words.of(["", ""])
    assert nothing.script.tolist() == ["", ""] and nothing.counts.tolist() == [0, 0]
