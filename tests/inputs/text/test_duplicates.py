"""Copies of texts: against comparing all with all, planted ones, and none where there are none."""

from __future__ import annotations

import numpy as np

from ftkeras.inputs.text import duplicates
from ftkeras.inputs.text.words import Words, words_in


def check(look, texts, labels=None, splits=None):
    looks, names = look(texts, labels or ["x", "y"] * (len(texts) // 2) + ["x"] * (len(texts) % 2),
                        splits)  # fmt: skip
    return {f.check: f for f in duplicates.find_duplicates(looks, names, None)}


def runs(text: str) -> set[tuple[str, ...]]:
    words = [word for word in words_in(text) if word[0].isalnum()]
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def test_shingles_are_the_runs_of_three_words():
    texts = ["a b c d", "!", "a b c", "a, b; c d e", "a b", "b a", "a b c a b c"]
    words = Words.of(texts)
    rows = np.array([0, 2, 3, 4, 5, 6])
    values, starts = duplicates.shingles(words, rows)
    sets = [set(values[a:b].tolist()) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    expected = [runs(texts[i]) for i in rows]
    for i in range(len(rows)):
        for j in range(len(rows)):
            assert len(sets[i] & sets[j]) == len(expected[i] & expected[j]), (i, j)
    assert len(values) == sum(map(len, expected))


def test_signatures_agree_as_often_as_texts_are_alike(sentence):
    base = sentence(0, 200).split()
    texts = [" ".join(base[: 200 - cut] + sentence(cut, cut).split()) for cut in (0, 20, 60, 120)]
    values, starts = duplicates.shingles(Words.of(texts), np.arange(4))
    signed = duplicates.signatures(values, starts)
    for i in (1, 2, 3):
        one, other = runs(texts[0]), runs(texts[i])
        alike = len(one & other) / len(one | other)
        assert abs((signed[0] == signed[i]).mean() - alike) < 3 * np.sqrt(0.25 / 64)


def test_near_pairs_are_those_of_comparing_all_with_all(look, sentence):
    random = np.random.default_rng(1)
    texts = [sentence(i, 40) for i in range(60)]
    for i in range(40):  # each a copy with i % 8 words changed at the end
        words = texts[i].split()
        words[len(words) - i % 8 :] = random.choice(["uvw", "xyz", "vwx"], i % 8).tolist()
        texts.append(" ".join(words) + ("!" if i % 8 == 0 else ""))
    looks, _ = look(texts, ["x", "y"] * 50)
    found = set(map(tuple, duplicates.near_pairs(looks).tolist()))
    sets = [runs(text) for text in texts]
    alike = {
        (i, j)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if len(sets[i] & sets[j]) >= 0.75 * len(sets[i] | sets[j])
    }
    assert found == alike
    assert 20 < len(alike) < 40


def test_case_and_spaces_hide_no_copy_and_a_sign_makes_it_a_near_one(look, sentence):
    one = sentence(1)
    texts = [one, sentence(2), "  " + one.upper().replace(" ", "\t"), one + "!"]
    found = check(look, texts, ["x", "y", "x", "x"])
    assert set(found) == {"duplicates", "near-duplicates"}
    assert [row.name for row in found["duplicates"].evidence] == ["texts.csv:4"]
    assert [row.name for row in found["near-duplicates"].evidence] == ["texts.csv:5"]


def test_texts_that_differ_are_no_copies(look, sentence):
    assert check(look, [sentence(i) for i in range(100)]) == {}
    same_start = [f"the capital of {sentence(i, 4)}" for i in range(40)]
    assert check(look, same_start) == {}


def test_copies_across_splits_are_an_error_and_near_ones_a_warning(look, sentence):
    texts = [sentence(i) for i in range(40)]
    texts[33], texts[34] = texts[3].title(), texts[4] + " and"
    splits = ["train"] * 20 + ["test"] * 20
    found = check(look, texts, splits=splits)
    assert {name: f.severity for name, f in found.items()} == {
        "duplicates across splits": "error",
        "near-duplicates across splits": "warning",
    }
    assert "5.0%" in found["duplicates across splits"].message
    assert str(found["duplicates across splits"].evidence[0]) == (
        "test: texts.csv:35  (as train: texts.csv:5)"
    )


def test_copies_with_other_labels_contradict_each_other(look, sentence):
    texts = [*(sentence(i) for i in range(10)), sentence(0), sentence(1), sentence(2) + "."]
    labels = ["x"] * 5 + ["y"] * 5 + ["x", "y", "y"]
    found = check(look, texts, labels)
    assert found["contradictory labels"].severity == "error"
    assert len(found["contradictory labels"].evidence) == 1
    assert "'y'; train: texts.csv:3 is 'x'" in found["contradictory labels"].evidence[0].detail
    assert found["contradictory labels of near-duplicates"].severity == "warning"
    labels[11:] = ["x", "x"]
    assert {"contradictory labels", "contradictory labels of near-duplicates"}.isdisjoint(
        check(look, texts, labels)
    )


def test_texts_without_words_are_no_copies_of_each_other(look):
    assert check(look, ["!!!", "!!!", "???", "a b"]) == {}


def test_many_copies_of_one_text_are_each_paired_with_few(look, sentence):
    texts = [sentence(0, 60) + f" {i}" for i in range(300)]
    looks, _ = look(texts, ["x", "y"] * 150)
    pairs = duplicates.near_pairs(looks)
    assert len(np.unique(pairs[:, 1])) == 299
    assert len(pairs) < 300 * 20 * 16
