"""Texts as the numbers of their tokens."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkeras.inputs.text.tokens import (
    BETWEEN,
    SPECIAL,
    TokenIds,
    Tokens,
    choose_length,
    count_tokens,
    split,
    tokens_in,
)


def words(text: str, by: str = "words") -> list[str]:
    return [token.decode() for token in split(tf.constant(text), by).numpy()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat, sat.", ["a", "cat", ",", "sat", "."]),
        ("don't they've it’s", ["do", "n't", "they", "'ve", "it", "'s"]),
        ("'quoted' rock'n'roll", ["'", "quoted", "'", "rock", "'", "n", "'", "roll"]),
        ("STRAßE Café", ["straße", "café"]),
        ("你好 世界abc", ["你", "好", "世", "界", "abc"]),
        ("ok👍🏽", ["ok", "👍", "🏽"]),
        ("a\u00a0b\tc\r\nd\u200be\x01f", ["a", "b", "c", "d", "e", "f"]),
        ("$3.14", ["$", "3", ".", "14"]),
        ("مرحبا بكم", ["مرحبا", "بكم"]),
        ("\ue000 x", ["x"]),  # a sign that splitting uses itself
        ("", []),
        (" \n", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_characters():
    assert words("aé\r\n你👍 A", "characters") == ["a", "é", "\n", "你", "👍", " ", "A"]


@given(st.text(st.characters(exclude_characters="\0"), max_size=40))
@settings(max_examples=100, deadline=None)
def test_splitting_loses_no_letter(text):
    clean = text.encode("utf-8", "ignore").decode()
    kept = "".join(words(clean)).replace("'", "")
    letters = [c for c in kept if c.isascii() and c.isalnum()]
    assert letters == [c for c in clean.lower() if c.isascii() and c.isalnum()]


TOKENS = Tokens("words", (*SPECIAL, "a", "cat", "sat"), length=4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat sat", [3, 4, 5]),
        ("A dog sat, a cat", [3, 1, 5, 1]),
        ("", []),
        ("[UNK] [SEP]", [1, 1, 1, 1]),  # what is written is no special token
    ],
)
def test_numbers_of_tokens(text, expected):
    assert TOKENS.ids(tf.constant(text)).numpy().tolist() == expected


def test_numbers_do_not_depend_on_the_order_of_the_vocabulary_in_memory():
    names = [f"w{i}" for i in range(5000)]
    many = Tokens("words", (*SPECIAL, *names), length=5000)
    found = many.ids(tf.constant(" ".join(names))).numpy()
    assert found.tolist() == list(range(3, 5003))


def test_parts_share_the_length():
    tokens = Tokens("words", (*SPECIAL, "a", "b"), length=5, parts=2)
    for text, expected in {
        f"a a a a{BETWEEN}b b b": [3, 3, 2, 4, 4],
        f"a{BETWEEN}b": [3, 2, 4],
        f"{BETWEEN}b": [2, 4],
        "a": [3, 2],
        f"a{BETWEEN}b{BETWEEN}a": [3, 2, 4],
    }.items():
        assert tokens.ids(tf.constant(text)).numpy().tolist() == expected, text


@pytest.mark.parametrize("length", [2, 5, 6, 7, 128, 400])
def test_lengths_are_few_and_end_at_the_length(length):
    tokens = Tokens("words", SPECIAL, length)
    assert tokens.lengths[-1] == length and len(tokens.lengths) <= 6
    assert sorted(set(tokens.lengths)) == list(tokens.lengths)
    assert Tokens("words", SPECIAL, length, fixed=True).lengths == (length,)


def test_a_length_reads_most_texts_whole():
    assert choose_length([3] * 90 + [50] * 10, 512) == 56
    assert choose_length([3] * 100, 512) == 8
    assert choose_length([10_000] * 3, 512) == 512


def test_tokens_are_counted():
    counts, lengths = count_tokens([np.array([b"a b a", b""], object), np.array([b"c"])], "words")
    assert counts == {"a": 2, "b": 1, "c": 1} and lengths == [3, 0, 1]


def test_a_saved_model_knows_its_tokens(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(6, 2, mask_zero=True)(TokenIds(TOKENS.as_config())(inputs))
    inner = keras.Model(inputs, x)
    outer_inputs = keras.Input((None,), dtype="int32")
    outer = keras.Model(outer_inputs, keras.layers.Dense(2)(inner(outer_inputs)))
    outer.save(tmp_path / "model.keras")
    assert tokens_in(keras.saving.load_model(tmp_path / "model.keras")) == TOKENS
    assert tokens_in(keras.Sequential([keras.layers.Dense(1)])) is None


def test_a_vocabulary_has_each_token_once():
    with pytest.raises(ValueError, match="'a' twice"):
        Tokens("words", ("", "[UNK]", "a", "a"), 4)


def test_the_same_numbers_within_a_data_set_and_a_graph():
    texts = ["a cat sat", "a dog"]
    eager = [TOKENS.ids(tf.constant(text)).numpy().tolist() for text in texts]
    mapped = tf.data.Dataset.from_tensor_slices(texts).map(TOKENS.ids)
    assert [ids.tolist() for ids in mapped.as_numpy_iterator()] == eager
