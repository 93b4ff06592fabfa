"""What a report shows of a text: the decisive part, and each token's contribution."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.inputs.base import PLAIN, Input, Shown, Tree
from ftkeras.inputs.text.attribution import integrated_gradients
from ftkeras.inputs.text.input import TextInput
from ftkeras.inputs.text.pieces import Pieces
from ftkeras.inputs.text.tokens import BETWEEN, SEPARATOR, Tokens, parts_of, split

_MOST = 400  # characters of an excerpt
_MOST_IN_PIECE = 60
_MORE = "\u2026"
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # writing without spaces: kana and Han
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+|\s+")

Piece = tuple[str, float | None]
"""A part of a text as it is written, and its contribution; None if the model did not read it."""


def draw(
    kind: Input,
    shown: Sequence[Shown],
    model: keras.Model,
    logits_of: Callable[[Any], tf.Tensor],
    exclusive: bool,
) -> list[dict[str, Any]]:
    """Returns what `pictures.json` keeps of each text.

    Args:
        kind: How texts are read.
        shown: The texts.
        model: From numbers of tokens to logits or scores.
        logits_of: From the model's outputs to logits (n, classes).
        exclusive: Whether exactly one class is right.

    Returns:
        `pieces`, the strings of an excerpt in order, and `weights`, the contribution of each to the
        score of the explained class; None between tokens and for parts that were not read.
    """
    assert isinstance(kind, TextInput) and kind.tokens is not None
    tokens = kind.tokens
    explain = integrated_gradients(model, logits_of, exclusive=exclusive)
    cards = []
    for one in shown:
        weights = None
        if explain is not None:
            inputs = _padded(kind, kind.read(one.raw, PLAIN, tf.zeros(2, tf.int32)))
            weights = explain(inputs, one.explained)
        pieces = excerpt(list(_pieces(one.raw, tokens, weights)))
        card: dict[str, Any] = {"pieces": [piece for piece, _ in pieces]}
        if weights is not None:
            card["weights"] = [None if w is None else round(w, 4) for _, w in pieces]
        cards.append(card)
    return cards


def _padded(kind: Input, inputs: Tree) -> Tree:
    """Returns the model's inputs for a text, padded to the shortest length that holds it."""

    def padded(name: str, x: tf.Tensor) -> tf.Tensor:
        count = int(x.shape[0])
        size = next((size for size in kind.sizes if size >= count), max(count, 1))
        return tf.pad(x, [(0, size - count)], constant_values=kind.pad.get(name, 0))

    if isinstance(inputs, dict):
        return {name: padded(name, x) for name, x in inputs.items()}
    [name] = kind.takes
    return padded(name, inputs)


def _written(raw: tf.Tensor, tokens: Pieces, weights: np.ndarray | None) -> Iterator[Piece]:
    """Yields a text in words; a word's weight is the sum over its pieces that were read."""
    place = len(tokens.start)
    for number, (part, read) in enumerate(
        zip(parts_of(raw, tokens.parts), tokens.read(raw), strict=True)
    ):
        if number:
            yield f" {SEPARATOR} ", None
            place += len(tokens.between)
        end = place + int(tf.size(read))
        for word, count in tokens.words(part.numpy().decode("utf-8-sig", "replace")):
            here = slice(place, min(place + count, end))
            place = here.stop
            did = 0.0 if weights is None else float(weights[here].sum())
            yield word, did if here.start < here.stop else None


def _pieces(raw: tf.Tensor, tokens: Tokens | Pieces, weights: np.ndarray | None) -> Iterator[Piece]:
    """Yields a text in pieces, with the weights (steps,) of its tokens."""
    if isinstance(tokens, Pieces):
        yield from _written(raw, tokens, weights)
        return
    count = tokens.parts
    parts = raw.numpy().split(BETWEEN.encode())[:count] if count > 1 else [raw.numpy()]
    parts += [b""] * (count - len(parts))
    room = (tokens.length - count + 1) // count
    place = 0
    for number, part in enumerate(parts):
        if number:
            yield f" {SEPARATOR} ", None
            place += 1
        read = [t.decode("utf-8", "replace") for t in split(part, tokens.by).numpy()[:room]]
        placed = pieces_of(part.decode("utf-8-sig", "replace"), read, by=tokens.by)
        numbers = [0.0] * len(read) if weights is None else weights[place:].tolist()
        weighed = [(piece, None if at is None else numbers[at]) for piece, at in placed]
        yield from _words(weighed) if tokens.by == "characters" else weighed
        place += len(read)


def pieces_of(text: str, tokens: Sequence[str], by: str = "words") -> list[tuple[str, int | None]]:
    """Returns a text in pieces as it is written, each with the index of its token, or None.

    Args:
        text: The text.
        tokens: Its tokens, of which the last may be missing: in lower case, without spaces.
        by: "words" or "characters".

    Example:
        >>> pieces_of("Don't  go!", ["do", "n't", "go", "!"])
        [('Do', 0), ("n't", 1), ('  ', None), ('go', 2), ('!', 3)]
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    pieces: list[tuple[str, int | None]] = []
    position = 0
    for place, token in enumerate(tokens):
        start = position
        while by == "words" and position < len(text) and _is_between(text[position]):
            position += 1
        if position > start:
            pieces.append((text[start:position], None))
        end, wanted, there = position, _plain(token), ""
        while end < len(text) and len(there) < len(wanted):
            there += _plain(text[end])
            end += 1
        if there != wanted:  # lower case changed its form
            spaced = ((token, i) for i, token in enumerate(tokens[place:], place))
            return pieces + [one for pair in spaced for one in (pair, (" ", None))]
        pieces.append((text[position:end], place))
        position = end
    return pieces + ([(text[position:], None)] if position < len(text) else [])


def _is_between(character: str) -> bool:
    return unicodedata.category(character)[0] in "ZC"


def _plain(text: str) -> str:
    return text.lower().replace("\u2019", "'").replace("\u03c2", "\u03c3")  # a final sigma


def _words(pieces: Sequence[Piece]) -> list[Piece]:
    """Returns words for characters; a word's weight is the sum over it and the space after it."""
    places = [i for i, (piece, _) in enumerate(pieces) for _ in piece]
    text = "".join(piece for piece, _ in pieces)
    words: list[Piece] = []
    for found in _WORD.finditer(text):
        inside = [pieces[i][1] for i in dict.fromkeys(places[found.start() : found.end()])]
        known = [weight for weight in inside if weight is not None]
        weight = sum(known) if known else None
        if words and weight is not None and found[0].isspace():
            word, before = words[-1]
            words[-1], weight = (word, (before or 0.0) + weight), None
        words.append((found[0], weight))
    return words


def excerpt(pieces: Sequence[Piece]) -> list[Piece]:
    """Returns the part of a text with the largest contribution, if it is too long to show."""
    short = [(_cut(" " if piece.isspace() else piece), weight) for piece, weight in _split(pieces)]
    lengths = np.cumsum([0, *(len(piece) for piece, _ in short)])
    if lengths[-1] <= _MOST:
        return short
    did = np.cumsum([0.0, *(abs(weight or 0.0) for _, weight in short)])
    ends = np.searchsorted(lengths, lengths[:-1] + _MOST, side="right") - 1
    begin = int(np.argmax(did[ends] - did[:-1]))
    end = int(ends[begin])
    # The largest contribution is in the middle, not at an end.
    inside = did[begin] + (did[end] - did[begin]) / 2
    middle = lengths[int(np.searchsorted(did, inside))]
    first = np.clip(middle - _MOST // 2, 0, lengths[-1] - _MOST)
    begin = int(np.searchsorted(lengths, first))
    end = int(np.searchsorted(lengths, first + _MOST, side="right")) - 1
    before: list[Piece] = [(_MORE, None)] if begin else []
    after: list[Piece] = [(_MORE, None)] if end < len(short) else []
    return [*before, *short[begin:end], *after]


def _split(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Divides unread parts into words, so that an excerpt can end in them."""
    for piece, weight in pieces:
        if weight is None:
            yield from ((word, None) for word in _WORD.findall(piece))
        else:
            yield piece, weight


def _cut(piece: str) -> str:
    return piece if len(piece) <= _MOST_IN_PIECE else piece[:_MOST_IN_PIECE] + _MORE
