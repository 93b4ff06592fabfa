"""What a report keeps of a text: all of it as written, or the part that decided."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.inputs.base import Shown
from ftkeras.inputs.text.cards import draw, excerpt, pieces_of
from ftkeras.inputs.text.input import TextInput
from ftkeras.inputs.text.tokens import SPECIAL, TokenIds, Tokens, split


def tokens_of(text: str, by: str = "words") -> list[str]:
    return [token.decode() for token in split(tf.constant(text.encode()), by).numpy()]


@pytest.mark.parametrize("by", ["words", "characters"])
@pytest.mark.parametrize(
    "text",
    [
        "I don\u2019t know: it's 5\u20ac!",
        "  \ttabs\n\nand lines \u00a0 ",
        "\u0130stanbul and \u039f\u0394\u039f\u03a3 and STRASSE",
        "\u732b\u304c\u597d\u304d \u0645\u0631\u062d\u0628\u0627",
        "\U0001f469\u200d\U0001f4bb e\u0301",
        "\ufb01n \u200eleft",
    ],
)
def test_pieces_are_the_text_as_written_and_hold_each_token(text, by):
    tokens = tokens_of(text, by)
    pieces = pieces_of(text, tokens, by)
    assert "".join(piece for piece, _ in pieces) == text
    assert [place for _, place in pieces if place is not None] == list(range(len(tokens)))
    for piece, place in pieces:
        if place is not None:
            assert len(piece) <= len(tokens[place]) and not piece.isspace() or by == "characters"


def test_what_was_not_read_is_no_token():
    assert pieces_of("One two  three", ["one", "two"]) == [
        ("One", 0), (" ", None), ("two", 1), ("  three", None)
    ]  # fmt: skip


def test_tokens_that_are_not_found_are_shown_as_they_are():
    pieces = pieces_of("ab cd", ["ab", "zz", "cd"])
    assert pieces == [("ab", 0), (" ", None), ("zz", 1), (" ", None), ("cd", 2), (" ", None)]


def test_a_short_text_is_shown_whole():
    pieces = [("a", 0.5), ("\n\n", None), ("b", None)]
    assert excerpt(pieces) == [("a", 0.5), (" ", None), ("b", None)]


def test_of_a_long_text_the_part_that_did_most_is_shown_in_the_middle():
    words = [(f"w{i}", 0.01) for i in range(400)]
    words[300] = ("decides", -5.0)
    pieces = [part for word in words for part in (word, (" ", None))]
    shown = excerpt(pieces)
    assert ("decides", -5.0) in shown
    assert shown[0] == shown[-1] == ("\u2026", None)
    assert 300 < sum(len(piece) for piece, _ in shown) <= 402
    before = sum(len(piece) for piece, _ in shown[: shown.index(("decides", -5.0))])
    assert 150 < before < 250


def test_of_a_long_text_without_weights_the_beginning_is_shown():
    shown = excerpt([(f"w{i} ", None) for i in range(400)])
    assert shown[0] == ("w0", None) and shown[-1] == ("\u2026", None)


def test_a_word_without_end_is_cut():
    [(piece, weight)] = excerpt([("a" * 100_000, 1.0)])
    assert (len(piece), weight) == (61, 1.0)


def model_of(tokens: Tokens, weights: dict[str, float]) -> keras.Model:
    """The logit of class 1 is the sum of the tokens' weights."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    table = keras.layers.Embedding(len(tokens.vocabulary), 2)
    logits = keras.ops.sum(table(TokenIds(tokens.as_config(), name="tokens")(ids)), axis=1)
    values = [[0.0, weights.get(token, 0.0)] for token in tokens.vocabulary]
    table.set_weights([np.array(values)])
    return keras.Model(ids, logits)


def test_a_card_holds_what_each_word_did():
    tokens = Tokens("words", (*SPECIAL, "good", "bad", "film"), 4)
    model = model_of(tokens, {"good": 2.0, "bad": -1.0})
    shown = [
        Shown(tf.constant("Good,  BAD film, good"), 1, False),
        Shown(tf.constant("bad"), 0, True),
    ]
    cards = draw(TextInput(tokens), shown, model, lambda x: x, exclusive=False)
    assert cards == [
        {
            "pieces": ["Good", ",", " ", "BAD", " ", "film", ",", " ", "good"],
            "weights": [2.0, 0.0, None, -1.0, None, 0.0, None, None, None],
        },
        {"pieces": ["bad"], "weights": [0.0]},
    ]


def test_of_characters_a_word_is_their_sum_with_the_space_after_it():
    tokens = Tokens("characters", (*SPECIAL, *"abc "), 5)
    model = model_of(tokens, {"a": 1.0, "b": 0.5, " ": 9.0})
    cards = draw(
        TextInput(tokens), [Shown(tf.constant("aab ba"), 1, False)], model, lambda x: x, False
    )
    assert cards == [{"pieces": ["aab", " ", "ba"], "weights": [11.5, None, 0.5]}]


def test_several_columns_are_shown_one_after_the_other():
    tokens = Tokens("words", (*SPECIAL, "a", "b"), 8, parts=2)
    model = model_of(tokens, {"a": 1.0, "b": 2.0})
    kind = TextInput(tokens, ("title", "body"))
    raw = tf.constant(kind.in_cells(["a", "b a"]))
    cards = draw(kind, [Shown(raw, 1, False)], model, lambda x: x, False)
    assert cards == [
        {"pieces": ["a", " ", "[SEP]", " ", "b", " ", "a"],
         "weights": [1.0, None, None, None, 2.0, None, 1.0]}
    ]  # fmt: skip


def test_a_model_that_cannot_be_explained_shows_the_text_alone():
    class Own(keras.Model):
        def call(self, x):
            return x

    tokens = Tokens("words", SPECIAL, 4)
    cards = draw(TextInput(tokens), [Shown(tf.constant("a b"), 0, True)], Own(), lambda x: x, True)
    assert cards == [{"pieces": ["a", " ", "b"]}]
