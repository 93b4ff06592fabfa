"""A config's settings for reading texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """How texts are read.

    Args:
        tokens: auto, words or characters.
        length: How many tokens of a text are read; None: the training texts decide.
        words: The most tokens of the training texts that are added to those with weights.
        vocabulary: For a user's model, the file with its tokens.
        parts: The number of parts of a text.
    """

    tokens: str = "auto"
    length: int | None = None
    words: int = 20_000
    vocabulary: str | None = None
    parts: int = 1
