"""Findings about duplicates of any kind of example: copies, leaks, contradictions.

The kind of input decides which examples are copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ftkeras.findings import Evidence, Finding, percent
from ftkeras.inputs.rows import Rows

Pairs = np.ndarray
"""int64 (m, 2): rows; the second is the copy."""

_SERIOUS = 0.01  # the share of a split from which copies are an error


@dataclass(frozen=True)
class Wording:
    """Words for the copies of a kind.

    Args:
        nouns: The word for several examples.
        same: What an exact copy has: "the pixels of another image".
        near: What a near one has.
        together: Which examples belong in one split.
    """

    nouns: str
    same: str
    near: str
    together: str


def distinct(rows: Rows, contents: np.ndarray) -> np.ndarray:
    """Returns the rows that show something, (m,): of exact copies only the first.

    Args:
        rows: All examples.
        contents: A fingerprint of each, (n,): equal for exact copies alone.
    """
    shown = np.flatnonzero(~rows.blank)
    _, first = np.unique(contents[shown], return_index=True)
    return shown[np.sort(first)]


def exact_pairs(rows: Rows, contents: np.ndarray) -> Pairs:
    """Returns pairs (original, copy) of examples with equal contents; see `distinct`.

    Blank examples are left out: they are a finding of their own.
    """
    shown = np.flatnonzero(~rows.blank)
    _, first, which = np.unique(contents[shown], return_index=True, return_inverse=True)
    original = shown[first[which]]  # the earliest of each content
    copies = original != shown
    return np.stack([original[copies], shown[copies]], axis=1)


def neighbours(order: np.ndarray, keys: np.ndarray, most: int) -> Iterator[Pairs]:
    """Yields pairs of examples with equal keys: each with the next `most` in the order of the keys.

    Args:
        order: The examples, so that equal keys follow each other, (n,).
        keys: A key for each example, (n,), not in this order.
        most: How far apart the examples of a pair are, at most.
    """
    ranked = keys[order]
    begins = np.arange(len(order) - 1)
    for step in range(1, most + 1):  # each example with the next, the next but one, ...
        begins = begins[begins < len(order) - step]
        begins = begins[ranked[begins] == ranked[begins + step]]
        if not len(begins):
            return
        yield np.stack([order[begins], order[begins + step]], axis=1)


def report_copies(
    rows: Rows, class_names: Sequence[str], pairs: Pairs, words: Wording, *, exact: bool
) -> Iterator[Finding]:
    """Yields findings: contradictory labels, leaks across splits, copies within a split.

    Args:
        rows: All examples.
        class_names: Names of the classes.
        pairs: The copies.
        words: The words for them.
        exact: Whether the copies are exact.
    """
    same_split = rows.splits[pairs[:, 0]] == rows.splits[pairs[:, 1]]
    agree = rows.same_labels(pairs[:, 0], pairs[:, 1])
    yield from _contradictions(rows, class_names, pairs[~agree], words, exact)
    yield from _across(rows, pairs[~same_split], words, exact)
    yield from _within(rows, pairs[same_split], words, exact)


def _contradictions(
    rows: Rows, class_names: Sequence[str], pairs: Pairs, words: Wording, exact: bool
) -> Iterator[Finding]:
    if not len(pairs):
        return
    count = len(np.unique(pairs[:, 1]))
    serious = exact and count >= _SERIOUS * len(rows)
    yield Finding(
        "error" if serious else "warning",
        "contradictory labels" + ("" if exact else " of near-duplicates"),
        f"{percent(count, len(rows))} {words.nouns} have {words.same if exact else words.near}, "
        "but another label.",
        "Look at each pair, and give both the right label or remove both.",
        tuple(
            rows.evidence(
                b,
                f"{rows.label(b, class_names)}; {rows.splits[a]}: {rows.ids[a]} is "
                f"{rows.label(a, class_names)}",
            )
            for a, b in pairs.tolist()
        ),
    )


def _across(rows: Rows, pairs: Pairs, words: Wording, exact: bool) -> Iterator[Finding]:
    """The copy named is the one in the split that measures; train comes first in `Rows`."""
    copied = np.unique(pairs[:, 1])
    for split in np.unique(rows.splits[copied]):
        count = int((rows.splits[copied] == split).sum())
        total = int((rows.splits == split).sum())
        inside = pairs[rows.splits[pairs[:, 1]] == split]
        others = " and ".join(np.unique(rows.splits[inside[:, 0]]).tolist())
        yield Finding(
            "error" if exact and count >= _SERIOUS * total else "warning",
            "duplicates across splits" if exact else "near-duplicates across splits",
            f"{percent(count, total)} {split} {words.nouns} are {_copies(words, exact)} in "
            f"{others}: a model may have memorised them, so the {split} score is too good.",
            f"Remove them from {others}, or put {words.nouns} of {words.together} in one split.",
            _copy_evidence(rows, inside),
        )


def _within(rows: Rows, pairs: Pairs, words: Wording, exact: bool) -> Iterator[Finding]:
    for split in np.unique(rows.splits[pairs[:, 1]]):
        inside = pairs[rows.splits[pairs[:, 1]] == split]
        count = len(np.unique(inside[:, 1]))
        total = int((rows.splits == split).sum())
        yield Finding(
            "warning" if count >= _SERIOUS * total else "note",
            "duplicates" if exact else "near-duplicates",
            f"{percent(count, total)} {split} {words.nouns} are "
            f"{_copies(words, exact, f'other {split} ')}.",
            "Remove the copies: each of them counts.",
            _copy_evidence(rows, inside),
        )


def _copies(words: Wording, exact: bool, which: str = "") -> str:
    return f"{'exact copies of' if exact else 'nearly the same as'} {which}{words.nouns}"


def _copy_evidence(rows: Rows, pairs: Pairs) -> tuple[Evidence, ...]:
    return tuple(rows.evidence(b, f"as {rows.splits[a]}: {rows.ids[a]}") for a, b in pairs.tolist())
