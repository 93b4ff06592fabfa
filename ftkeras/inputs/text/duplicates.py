"""Duplicate texts, exact or near, and copies with contradictory labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ftkeras.findings import Finding
from ftkeras.inputs.copies import (
    Pairs,
    Wording,
    distinct,
    exact_pairs,
    neighbours,
    report_copies,
)
from ftkeras.inputs.text.looks import Looks
from ftkeras.inputs.text.words import Words

_SHINGLE = 3  # words in a row
_BANDS, _IN_BAND = 16, 4
_ALIKE = 0.75  # the least Jaccard similarity of near-duplicates
_NEIGHBOURS = 20  # texts that agree in a band and are compared, with each
_WORDS = Wording("texts", "the words of another text", "nearly the words of another text",
                 "one author, source or thread")  # fmt: skip


def find_duplicates(
    looks: Looks, class_names: Sequence[str], features: Callable[[np.ndarray], np.ndarray]
) -> list[Finding]:
    """Finds exact copies and near-duplicates, within splits, across them and across labels.

    Args:
        looks: Measurements of the texts.
        class_names: Names of the classes.
        features: Not needed: the words of two texts decide.
    """
    exact = exact_pairs(looks, looks.contents)
    return [
        *report_copies(looks, class_names, exact, _WORDS, exact=True),
        *report_copies(looks, class_names, near_pairs(looks), _WORDS, exact=False),
    ]


def near_pairs(looks: Looks) -> Pairs:
    """Returns pairs of texts that differ, but share three quarters of their runs of three words."""
    rows = distinct(looks, looks.contents)
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    values, starts = shingles(looks.words, rows)
    pairs = candidates(signatures(values, starts))
    sets = {i: values[starts[i] : starts[i + 1]] for i in np.unique(pairs).tolist()}
    alike = [_jaccard(sets[a], sets[b]) >= _ALIKE for a, b in pairs.tolist()]
    return rows[pairs[np.array(alike, bool)]]


def shingles(words: Words, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the runs of three words of texts, signs left out, as hashes.

    A text of fewer words has one run, the whole text.

    Args:
        words: The words of all texts.
        rows: Which texts, (m,), none of them without words.

    Returns:
        uint64 hashes, each once per text and rising, one text after the other; and the start of
        each text and the end of the last, (m + 1,).
    """
    real = words.is_word[words.numbers]
    numbers, rows_of = words.numbers[real].astype(np.uint64), words.rows[real]
    first = np.searchsorted(rows_of, np.arange(len(words) + 1))
    ends = first[rows_of + 1]
    value = np.zeros(len(numbers), np.uint64)
    for step in range(_SHINGLE):
        place = np.arange(len(numbers)) + step
        inside = place < ends
        follower = np.where(inside, numbers[np.minimum(place, len(numbers) - 1)] + np.uint64(1), 0)
        value = _mix(value * np.uint64(0x9E3779B97F4A7C15) + follower.astype(np.uint64))
    # The last two words of a text begin no run of three, unless there is no other run.
    whole = np.arange(len(numbers)) + _SHINGLE <= ends
    whole |= np.arange(len(numbers)) == first[rows_of]
    place_of = np.full(len(words), -1)
    place_of[rows] = np.arange(len(rows))
    wanted = whole & (place_of[rows_of] >= 0)
    text, value = place_of[rows_of[wanted]], value[wanted]
    order = np.lexsort((value, text))
    text, value = text[order], value[order]
    new = np.ones(len(text), bool)
    new[1:] = (text[1:] != text[:-1]) | (value[1:] != value[:-1])
    return value[new], np.searchsorted(text[new], np.arange(len(rows) + 1))


def signatures(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns 64 numbers per text; the probability that two texts agree in one is their similarity.

    MinHash, Broder 1997, "On the resemblance and containment of documents".

    Args:
        values: uint64 hashes of all texts.
        starts: The start of each text, and the end of the last, (m + 1,).

    Returns:
        uint64 (m, 64).
    """
    random = np.random.default_rng(0)
    count = _BANDS * _IN_BAND
    factors = random.integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    made = np.empty((len(starts) - 1, count), np.uint64)
    for column, factor in enumerate(factors):
        made[:, column] = np.minimum.reduceat(values * factor, starts[:-1])
    return made


def candidates(signed: np.ndarray) -> Pairs:
    """Returns the pairs that agree in all of a band of their signatures.

    That finds 99.8% of the pairs with a similarity of 75%, and 12% of those with 30%. If many texts
    agree in a band, each is paired with the next twenty.

    Args:
        signed: uint64 (m, 64).
    """
    matches = [np.zeros((0, 2), np.int64)]
    for band in np.split(signed, _BANDS, axis=1):
        key = np.zeros(len(band), np.uint64)
        for column in band.T:
            key = _mix(key + column)
        order = np.argsort(key, kind="stable")
        matches += [np.sort(pairs, axis=1) for pairs in neighbours(order, key, _NEIGHBOURS)]
    return np.unique(np.concatenate(matches), axis=0)


def _mix(values: np.ndarray) -> np.ndarray:
    """Returns a pseudo-random 64-bit number for each (Steele et al. 2014, "SplitMix")."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
