"""The text part of the starter: what its files hold, and that it is what it is said to be."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter

import numpy as np
import pytest

from ftkeras.starter import text


@pytest.fixture(scope="module")
def glosses() -> list[dict[str, str]]:
    with zipfile.ZipFile(text.glosses_path()) as archive:
        assert archive.namelist() == ["glosses.csv"]
        return list(csv.DictReader(io.StringIO(archive.read("glosses.csv").decode("utf-8"))))


def test_the_char_lstm_has_all_its_arrays_and_one_character_per_row():
    characters, arrays = text.char_lstm()
    assert {name: value.shape for name, value in arrays.items()} == {
        "embedding/embeddings": (465, 100),
        "lstm_1/kernel": (100, 512),
        "lstm_1/recurrent_kernel": (128, 512),
        "lstm_1/bias": (512,),
        "lstm_2/kernel": (128, 512),
        "lstm_2/recurrent_kernel": (128, 512),
        "lstm_2/bias": (512,),
        "attention/kernel": (356, 1),
        "output/kernel": (356, 465),
        "output/bias": (465,),
    }
    assert all(value.dtype == np.float32 for value in arrays.values())
    assert all(type(character) is str for character in characters)
    assert len(characters) == len(set(characters)) == 465
    assert (characters[0], characters[5], characters[-1]) == ("", " ", "<s>")
    assert all(len(character) == 1 for character in characters[1:-1])
    assert set("abcxyzABCXYZ0123456789 .,;:!?'\"()-") < set(characters)


def nearest(words: list[str], vectors: np.ndarray, query: np.ndarray, *, but: set[str]) -> str:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    best = np.argsort(-(unit @ query))
    return next(words[index] for index in best if words[index] not in but)


@pytest.mark.parametrize(
    ("plus", "minus", "and_plus", "expected"),
    [
        ("king", "man", "woman", "queen"),
        ("paris", "france", "italy", "rome"),
        ("walked", "walk", "run", "ran"),
    ],
)
def test_word_vectors_solve_analogies(plus, minus, and_plus, expected):
    words, vectors = text.word_vectors()
    assert len(words) == len(set(words)) == 20_000 and words[:3] == ["the", ",", "."]
    assert vectors.shape == (20_000, 50) and vectors.dtype == np.float32
    of = {word: vectors[index] for index, word in enumerate(words)}
    query = of[plus] - of[minus] + of[and_plus]
    assert nearest(words, vectors, query, but={plus, minus, and_plus}) == expected


def test_the_vector_of_the_most_frequent_word_is_gloves():
    _, vectors = text.word_vectors()
    published = [0.418, 0.24968, -0.41242, 0.1217, 0.34527]  # "the" in glove.6B.50d.txt
    np.testing.assert_allclose(vectors[0, :5], published, atol=0.02)


def test_glosses_are_balanced_and_no_text_is_twice(glosses):
    counts = Counter((row["split"], row["label"]) for row in glosses)
    labels = {row["label"] for row in glosses}
    assert len(labels) == 24 and {"animal", "food", "person", "shape"} < labels
    assert counts == {(s, c): n for s, n in [("train", 67), ("test", 33)] for c in labels}
    assert len({row["text"].casefold().strip() for row in glosses}) == len(glosses) == 2400


def test_glosses_are_definitions_that_the_char_lstm_can_read(glosses):
    readable = set(text.char_lstm()[0])
    for row in glosses:
        assert 20 <= len(row["text"]) <= 200 and row["text"] == row["text"].strip()
        assert '"' not in row["text"]  # examples of use are in quotes
        assert set(row["text"]) <= readable


def test_rows_of_a_class_do_not_stand_together(glosses):
    train = [row["label"] for row in glosses if row["split"] == "train"]
    assert [row["split"] for row in glosses] == ["train"] * len(train) + ["test"] * 792
    assert len(set(train[:100])) > 20
