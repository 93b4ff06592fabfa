"""What a config says about how texts are read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """How texts are read.

    Args:
        tokens: auto, words or characters.
        length: How many tokens of a text; None follows from the training texts.
        words: How many tokens of the training texts are added to those with weights, at most.
        vocabulary: For a model of one's own, the file with its tokens.
        parts: Of how many parts a text is.
    """

    tokens: str = "auto"
    length: int | None = None
    words: int = 20_000
    vocabulary: str | None = None
    parts: int = 1
