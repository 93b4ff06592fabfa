"""Features that differ between sources of texts: the mean word vector, and habits of writing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkeras.starter import text as starter

if TYPE_CHECKING:
    from ftkeras.inputs.text.looks import Looks

WHAT = "word vectors and habits of writing"


def make(looks: Looks, batches: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from rows (m,) to features float32 (m, 55).

    The last five are the logarithm of the length, and the shares of signs, numbers, words without a
    vector, and long words: for texts in a language without vectors.

    Args:
        looks: Measurements of the texts.
        batches: Not needed: nothing is read again.
    """
    known, vectors = starter.word_vectors()
    place = {word: i for i, word in enumerate(known)}
    words = looks.words
    at = np.array([place.get(word, len(known)) for word in words.vocabulary] or [0])
    table = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])
    habits = np.stack(
        [
            ~words.is_word,
            [word.isdigit() for word in words.vocabulary],
            (at == len(known)) & words.is_word,
            [len(word) > 7 for word in words.vocabulary],
        ],
        axis=1,
    ).astype(np.float32)

    def features(rows: np.ndarray) -> np.ndarray:
        made = np.zeros((len(rows), vectors.shape[1] + 1 + habits.shape[1]), np.float32)
        for i, row in enumerate(rows.tolist()):
            numbers = words.numbers[words.starts[row] : words.starts[row + 1]]
            if len(numbers):
                mean = table[at[numbers]].mean(axis=0)
                made[i] = [*mean, np.log(len(numbers)), *habits[numbers].mean(axis=0)]
        return made

    return features
