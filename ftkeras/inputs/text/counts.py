"""Words and pairs of words as numbers: what a classifier of texts can do without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

WHAT = "logistic regression on words and pairs of words"
_MOST = 100_000  # words and pairs


def make(texts: Sequence[bytes]) -> Callable[[Sequence[bytes]], Any]:
    """Returns a function from texts to a sparse matrix (n, terms), weighed by tf-idf.

    Args:
        texts: Decide which terms there are, and how rare each is.

    Raises:
        ValueError: They have no words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        max_features=_MOST,
        token_pattern=r"(?u)\b\w+\b",
        decode_error="replace",
    )
    vectorizer.fit(texts)
    return lambda more: vectorizer.transform(more)
