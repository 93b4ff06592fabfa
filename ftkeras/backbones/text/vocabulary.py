"""A backbone's vocabulary and the length of texts, both from the training texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.data.dataset import Split
from ftkeras.inputs.text.tokens import SPECIAL, By, Tokens, choose_length, count_tokens

MOST = {"words": 512, "characters": 400}  # tokens of a text that are read by default
_MOST_TEXTS = 200_000  # that are counted
_BATCH = 256


@dataclass(frozen=True)
class Seen:
    """Counts of the training texts.

    Args:
        counts: The count of each token.
        lengths: The number of tokens of each text.
    """

    counts: Counter[str]
    lengths: Sequence[int]

    def frequent(self) -> list[str]:
        """Returns the tokens that occur at least twice, the most frequent first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [token for token, count in ordered if count > 1]

    def strange(self, known: Collection[str]) -> float:
        """Returns the share of all words that are not known; signs do not count."""
        words = {token: n for token, n in self.counts.items() if token[0].isalpha()}
        there = set(known)
        missing = sum(n for token, n in words.items() if token not in there)
        return missing / max(sum(words.values()), 1)

    def tokens(
        self, by: By, vocabulary: Sequence[str], length: int | None, parts: int = 1
    ) -> Tokens:
        """Returns the vocabulary with its settings.

        Args:
            by: "words" or "characters".
            vocabulary: All tokens, the special ones first.
            length: How many are read of a text; None: the training texts decide.
            parts: The number of parts of a text.
        """
        length = length or choose_length(self.lengths, MOST[by])
        longer = float(np.mean(np.array(self.lengths) > length)) if self.lengths else 0.0
        return Tokens(by, tuple(vocabulary), length, longer, parts=parts)


def see(split: Split, by: str) -> Seen:
    """Counts the tokens of a split's texts, or of a regular sample if there are very many."""
    places = places_in(split)
    texts = tf.data.Dataset.from_tensor_slices(places).map(split.fetch).batch(_BATCH)
    progress = Progress(f"count {by}", len(places), "text")

    def told() -> Iterator[np.ndarray]:
        for batch in texts.as_numpy_iterator():
            progress.advance(len(batch))
            yield batch

    try:
        return Seen(*count_tokens(told(), by))
    finally:
        progress.close()


def places_in(split: Split) -> np.ndarray:
    """Returns the indices of a split's texts that are counted: all, or a regular sample. (n,)"""
    count = len(split)
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_TEXTS)).astype(np.int64))


def texts_in(split: Split) -> list[str]:
    """Returns the texts of a split."""
    data = tf.data.Dataset.range(len(split)).map(split.fetch)
    return [text.decode("utf-8", "replace") for text in data.as_numpy_iterator()]


def extended(known: Sequence[str], seen: Seen, most: int) -> list[str]:
    """Returns a vocabulary: special tokens, known ones, and the frequent ones of the texts.

    Args:
        known: Tokens that have weights already.
        seen: The training texts.
        most: The most tokens of the texts that are added.
    """
    there: Collection[str] = {*SPECIAL, *known}
    new = [token for token in seen.frequent() if token not in there]
    return [*SPECIAL, *dict.fromkeys(t for t in known if t not in SPECIAL), *new[:most]]
