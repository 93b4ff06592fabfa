"""From a name in a config to a backbone for texts."""

from __future__ import annotations

import dataclasses

import keras

from ftkeras.backbones import saved
from ftkeras.backbones.backbone import Backbone, Block
from ftkeras.backbones.catalog import no_backbone
from ftkeras.backbones.hub import is_hub
from ftkeras.backbones.text import char_lstm, recurrent, transformer
from ftkeras.backbones.text.catalog import TEXT_CATALOG, TextEntry
from ftkeras.backbones.text.reading import Reading
from ftkeras.backbones.text.vectors import load_vectors
from ftkeras.backbones.text.vocabulary import extended, see
from ftkeras.data.dataset import Split
from ftkeras.data.reading import read_whole
from ftkeras.errors import UserError
from ftkeras.inputs.text.tokens import PADDING, UNKNOWN, By, TokenIds, Tokens, tokens_in


def load_text_backbone(
    name: str,
    train: Split,
    *,
    weights: str = "starter",
    reading: Reading = Reading(),  # noqa: B008 (it is frozen)
    shape: recurrent.Shape | None = None,
    pooler: bool = False,
    seed: int = 0,
) -> Backbone:
    """Returns a backbone for texts.

    Args:
        name: A name of the catalog, the path of a `.keras` file, or a name of a model of keras-hub.
        train: The training texts, which decide the vocabulary and the length.
        weights: starter, none, or a file of word vectors; a `.keras` file and a model of keras-hub
            keep their own unless this is none.
        reading: How texts are read.
        shape: The size of a recurrent backbone; for others leave it out.
        pooler: Whether a Transformer's features are its pooler's outputs.
        seed: Seed of random weights.

    Raises:
        UserError: The name, the weights or the settings cannot work.
    """
    if name.endswith(".keras"):
        return _own(name, train, weights, reading)
    if name not in TEXT_CATALOG and is_hub(name):
        if weights not in ("starter", "none"):
            raise UserError(f"backbone.weights: {name} has its own, or none. Leave it out.")
        return transformer.load(
            name, train, pretrained=weights != "none", reading=reading, pooler=pooler
        )
    if name not in TEXT_CATALOG:
        raise no_backbone(name, "text")
    entry = TEXT_CATALOG[name]
    if reading.vocabulary is not None:
        raise UserError(
            f"data.input.vocabulary: {name} makes its own from the training texts. Leave it out."
        )
    if entry.name == "char_lstm":
        return _char_lstm(entry, train, weights, reading, shape)
    by = _by(entry, reading)
    seen = see(train, by)
    if by == "characters" and weights == "starter":
        weights = "none"  # there are vectors of words alone
    vectors = load_vectors(weights, seen.counts)
    known = [] if vectors is None else vectors.words
    tokens = seen.tokens(by, extended(known, seen, reading.words), reading.length, reading.parts)
    tokens = dataclasses.replace(tokens, strange=seen.strange(known) if known else 0.0)
    return recurrent.build(entry, tokens, vectors, shape or recurrent.Shape(), seed)


def _by(entry: TextEntry, reading: Reading) -> By:
    by = entry.tokens[0] if reading.tokens == "auto" else reading.tokens
    if by not in entry.tokens:
        raise UserError(f"data.input.tokens: {entry.name} reads {' or '.join(entry.tokens)}.")
    return "words" if by == "words" else "characters"


def _char_lstm(
    entry: TextEntry, train: Split, weights: str, reading: Reading, shape: recurrent.Shape | None
) -> Backbone:
    if shape is not None:
        raise UserError("backbone.recurrent: the layers of char_lstm are fixed. Leave it out.")
    if weights not in ("starter", "none"):
        raise UserError("backbone.weights: char_lstm takes starter or none.")
    by = _by(entry, reading)
    characters = char_lstm.characters()
    tokens = see(train, by).tokens(by, characters, reading.length, reading.parts)
    inputs = TokenIds(tokens.as_config(), name="tokens")
    return char_lstm.load(inputs, pretrained=weights == "starter")


def _own(path: str, train: Split, weights: str, reading: Reading) -> Backbone:
    """Returns a user's model, after a layer with its vocabulary."""
    kept = "none" if weights == "none" else "imagenet"  # the latter keeps the file's own
    loaded = saved.load(path, weights=kept, image_size=None, cut=None)
    if tokens_in(loaded.model) is not None:
        return loaded
    [*others, first] = reversed(loaded.model.inputs)
    if others or len(first.shape) != 2:
        shapes = ", ".join(str(tuple(x.shape)) for x in loaded.model.inputs)
        raise UserError(
            f"backbone.name: {path} takes {shapes}; a backbone for texts takes the numbers of "
            "tokens, (None, length). Leave out what makes them of strings: "
            "data.input.vocabulary names its tokens."
        )
    if reading.vocabulary is None:
        raise UserError(
            f"data.input.vocabulary: {path} does not say what its tokens are. Name a file with one "
            "per line, as TextVectorization.get_vocabulary() returns them."
        )
    by: By = "characters" if reading.tokens == "characters" else "words"
    vocabulary = _vocabulary(reading.vocabulary)
    length = first.shape[1] or reading.length
    tokens = see(train, by).tokens(by, vocabulary, length, reading.parts)
    return _with_tokens(loaded, tokens, first.shape[1])


def _vocabulary(path: str) -> list[str]:
    try:
        lines = read_whole(path).getvalue().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"data.input.vocabulary: {path} is not UTF-8 text.") from error
    tokens = [line.rstrip("\r") for line in lines]
    while len(tokens) > 1 and not tokens[-1]:
        tokens.pop()
    twice = len(set(tokens)) != len(tokens)
    if tokens[0] != PADDING or UNKNOWN not in tokens or twice:
        raise UserError(
            f"data.input.vocabulary: {path} must have one token per line, each once: first an "
            f"empty line, which is padding, and {UNKNOWN} for unknown ones among the others."
        )
    return tokens


def _with_tokens(loaded: Backbone, tokens: Tokens, fixed: int | None) -> Backbone:
    config = {**tokens.as_config(), "fixed": fixed is not None}
    inputs = keras.Input((fixed,), dtype="int32", name=recurrent.IDS)
    named = TokenIds(config, name="tokens")(inputs)
    [own] = loaded.model.inputs
    features = loaded.model(keras.ops.cast(named, own.dtype))
    blocks = tuple(Block(block.name, block.layers) for block in loaded.blocks)
    return Backbone(loaded.name, keras.Model(inputs, features), "none", 0, 0, blocks)
