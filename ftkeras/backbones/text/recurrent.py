"""Recurrent backbones over word vectors or characters, built of Keras's own layers."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from ftkeras.backbones.backbone import Backbone, Block
from ftkeras.backbones.text.catalog import TextEntry
from ftkeras.backbones.text.vectors import WordVectors
from ftkeras.inputs.text.tokens import SPECIAL, TokenIds, Tokens

IDS = "token_ids"


@dataclass(frozen=True)
class Shape:
    """The size of a recurrent backbone, and its dropout.

    Args:
        units: Width of each recurrent layer, in one direction.
        layers: The number of layers.
        embedding: Width of the embedding, if there are no word vectors.
        dropout: Dropout of each recurrent layer's inputs.
        recurrent_dropout: Dropout of a layer's state between steps (Gal and Ghahramani 2016).
    """

    units: int = 128
    layers: int = 1
    embedding: int = 100
    dropout: float = 0.0
    recurrent_dropout: float = 0.0


def build(
    entry: TextEntry,
    tokens: Tokens,
    vectors: WordVectors | None = None,
    shape: Shape = Shape(),  # noqa: B008 (it is frozen)
    seed: int = 0,
) -> Backbone:
    """Returns a backbone from token numbers (batch, steps) to features (batch, steps, channels).

    Features are the embedding and the outputs of each layer, concatenated. So a linear model on
    their mean has at least the information of the mean of word vectors (Peters et al. 2018, "ELMo",
    also mix layers). Padding is masked, so it does not change a text's features.

    Args:
        entry: The kind of layers.
        tokens: The vocabulary.
        vectors: The first word vectors; tokens without one get a random vector of the same spread.
        shape: Its size.
        seed: Seed of random weights.

    Example:
        ```python
        tokens = Tokens("words", ("", "[UNK]", "[SEP]", "good", "bad"), length=16)
        backbone = build(TEXT_CATALOG["bilstm"], tokens, shape=Shape(units=64))
        ```
    """
    width = shape.embedding if vectors is None else vectors.vectors.shape[1]
    inputs = keras.Input((None,), dtype="int32", name=IDS)
    table = keras.layers.Embedding(
        len(tokens.vocabulary),
        width,
        embeddings_initializer=keras.initializers.RandomUniform(seed=seed),
        mask_zero=True,
        name="embedding",
    )
    x = table(TokenIds(tokens.as_config(), name="tokens")(inputs))
    if vectors is not None:
        table.set_weights([_table(tokens, vectors, seed)])
    outputs, blocks = [x], [Block("embedding", (table,))]
    for number in range(1, shape.layers + 1):
        layer = _layer(entry, shape, f"{entry.layer.lower()}_{number}", seed + number)
        x = layer(x)
        outputs.append(x)
        blocks.append(Block(layer.name, (layer,)))
    features = keras.layers.Concatenate(name="features")(outputs)
    model = keras.Model(inputs, features, name=entry.name)
    return Backbone(entry.name, model, "none", 0, 0, tuple(blocks))


def _layer(entry: TextEntry, shape: Shape, name: str, seed: int) -> keras.layers.Layer:
    make = getattr(keras.layers, entry.layer)
    layer = make(
        shape.units,
        return_sequences=True,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        recurrent_initializer=keras.initializers.Orthogonal(seed=seed),
        dropout=shape.dropout,
        recurrent_dropout=shape.recurrent_dropout,
        seed=seed,
        name=f"{name}_one" if entry.both_ways else name,
    )
    return keras.layers.Bidirectional(layer, name=name) if entry.both_ways else layer


def _table(tokens: Tokens, vectors: WordVectors, seed: int) -> np.ndarray:
    """Returns the embedding's weights, (vocabulary, numbers)."""
    known = dict(zip(vectors.words, vectors.vectors, strict=True))
    spread = vectors.vectors.std(axis=0)
    shape = (len(tokens.vocabulary), vectors.vectors.shape[1])
    table = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * spread
    for number, token in enumerate(tokens.vocabulary):
        if token in known:
            table[number] = known[token]
    table[[tokens.vocabulary.index(token) for token in SPECIAL if token in tokens.vocabulary]] = 0
    return table
