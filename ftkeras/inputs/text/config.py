"""The settings of texts in a config: `data.input` with the kind `text`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftkeras.config.fields import FilePath, Fraction, InputSection, Section


class TextVariation(Section):
    """Random changes to texts in training, never in validation and test."""

    drop: Fraction = 0.0
    """The share of tokens to leave out (Wei and Zou 2019)."""
    swap: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """The share of neighbouring pairs of tokens to swap."""


class TextConfig(InputSection):
    """Each example is a text, read as words or characters."""

    kind: Literal["text"]
    """The kind of input; a backbone for texts implies it."""
    column: str | None = None
    """The column of a manifest, or the feature of tfds or tfrecord data, that holds the text;
    default: text."""
    columns: list[str] | None = None
    """Several columns of a manifest instead of one: their texts are joined, in this order."""
    tokens: Literal["auto", "words", "characters"] = "auto"
    """The tokens of a text; auto: characters for the backbone char_lstm, otherwise words."""
    length: Annotated[int, Field(ge=2, le=4096)] | None = None
    """How many tokens of a text are read. Default: as many as 95% of the training texts have, and
    at most 512 words or 400 characters."""
    words: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """The most words that the training texts add to the vocabulary, besides those that have
    vectors; a word must occur twice."""
    vocabulary: FilePath | None = None
    """For your own backbone: a text file with one token per line, in the order of their numbers, as
    TextVectorization.get_vocabulary() returns them."""
    variation: TextVariation = TextVariation()
    """If left out, texts stay as they are."""
