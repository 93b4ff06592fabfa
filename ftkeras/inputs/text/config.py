"""The settings of texts in a config: `data.input` with the kind `text`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftkeras.config.fields import FilePath, Fraction, InputSection, Section


class TextVariation(Section):
    """How texts are varied in training; validation and test texts never are."""

    drop: Fraction = 0.0
    """The share of tokens to leave out (Wei and Zou 2019)."""
    swap: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """The share of neighbouring pairs of tokens to swap."""


class TextConfig(InputSection):
    """Each example is a text, read as words or characters."""

    kind: Literal["text"]
    """What an example is; a backbone for texts implies it."""
    column: str | None = None
    """The column of a manifest, or the feature of tfds or tfrecord data, that holds the text; left
    out, text."""
    columns: list[str] | None = None
    """Instead of column, several of a manifest: their texts are read as one, in this order."""
    tokens: Literal["auto", "words", "characters"] = "auto"
    """What a text is divided into; auto follows from the backbone: characters for char_lstm, words
    for others."""
    length: Annotated[int, Field(ge=2, le=4096)] | None = None
    """How many tokens of a text are read; left out, as many as 95% of the training texts have, and
    at most 512 words or 400 characters."""
    words: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """At most how many words of the training texts the vocabulary takes, besides those that have
    vectors; a word must occur twice."""
    vocabulary: FilePath | None = None
    """For a backbone of your own: a text file with one token per line, in the order of their
    numbers, as TextVectorization.get_vocabulary() returns them."""
    variation: TextVariation = TextVariation()
    """Left out, texts stay as they are."""
