"""From a text to the numbers of its words or characters, by TensorFlow operations alone.

The same function runs in tf.data and in an exported model, so they cannot differ.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf

from ftkeras.cache import digest
from ftkeras.inputs.base import Tree
from ftkeras.keras_internals import flat_layers

By = Literal["words", "characters"]

PADDING, UNKNOWN, SEPARATOR = "", "[UNK]", "[SEP]"
SPECIAL = (PADDING, UNKNOWN, SEPARATOR)
"""The first tokens of each vocabulary that ftkeras makes; padding has the number 0."""

BETWEEN = "\x1e"
"""The character between the parts of a text, such as a question and an answer."""

LENGTHS = 6  # the most lengths that batches have
MOST_CHARACTERS = 1_000_000  # of a text, because it is read before it is cut

# Clitics are words in public vocabularies ("do n't", "it 's"). Another character replaces their
# apostrophe, so that it is not split off.
_KEPT_APOSTROPHE = "\ue000"
_CLITICS = r"(\pL)['’](s|re|ve|ll|d|m)\b"
_NOT = r"(\pL)n['’]t\b"
_SPACE = r"[\pZ\pC]+"
_APART = r"([\pP\pS\p{Han}])"  # punctuation, symbols, emoji, and writing without spaces
_HASHED = (1 << 62) - 1


@dataclass(frozen=True)
class Tokens:
    """From texts to the numbers of tokens.

    Args:
        by: "words" (lower case; punctuation, symbols and Chinese characters are words of their
            own) or "characters" (as they are).
        vocabulary: The tokens; their indices are their numbers. The first is padding.
        length: How many tokens of a text are read; later ones are left out.
        longer: The share of the training texts that are longer, for messages.
        strange: The share of the training texts' words without a pretrained vector, for messages;
            0 if there are no vectors.
        fixed: Whether all batches have that length.
        parts: The number of parts of a text; they share the length.
    """

    by: By
    vocabulary: tuple[str, ...]
    length: int
    longer: float = 0.0
    fixed: bool = False
    parts: int = 1
    strange: float = 0.0

    takes: ClassVar[tuple[str, ...]] = ("token_ids",)
    special: ClassVar[tuple[int, ...]] = ()
    resources: ClassVar[tuple[Any, ...]] = ()

    def __post_init__(self) -> None:
        if len(set(self.vocabulary)) != len(self.vocabulary):
            twice = [t for t, n in collections.Counter(self.vocabulary).items() if n > 1]
            raise ValueError(f"the vocabulary has {twice[0]!r} twice")

    @property
    def unknown(self) -> int:
        """The number of unknown tokens."""
        return self.vocabulary.index(UNKNOWN)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that batches may have, in tokens: few, so that few graphs are traced."""
        return (self.length,) if self.fixed else lengths_up_to(self.length)

    @property
    def size(self) -> int:
        """The size of the vocabulary."""
        return len(self.vocabulary)

    @property
    def digest(self) -> str:
        """A hash of the vocabulary."""
        return digest(*self.vocabulary)

    def count(self, text: tf.Tensor) -> tf.Tensor:
        """Returns the number of a text's tokens before it is cut, int32."""
        # The separator of parts is a character, but no word.
        separators = self.parts - 1 if self.by == "words" else 0
        return tf.size(split(text, self.by)) + separators

    def inputs_of(self, ids: tf.Tensor) -> Tree:
        """Returns the model's inputs for a text's numbers (t,)."""
        return ids

    def ids(self, text: tf.Tensor) -> tf.Tensor:
        """Returns the numbers of a text's tokens.

        Args:
            text: A string scalar, UTF-8. `BETWEEN` separates its parts, if it has several; each has
                an equal share of the length, and a separator after it.

        Returns:
            int32 (t,), with t between 0 and `length`.
        """
        if self.parts == 1:
            return self._ids(split(text, self.by)[: self.length])
        room = (self.length - self.parts + 1) // self.parts
        parts = [split(part, self.by)[:room] for part in parts_of(text, self.parts)]
        separator = tf.constant([SEPARATOR])
        joined = parts[:1] + [x for part in parts[1:] for x in (separator, part)]
        return self._ids(tf.concat(joined, 0))

    def _ids(self, tokens: tf.Tensor) -> tf.Tensor:
        return numbers_of(tokens, self.vocabulary, self.unknown)

    def as_config(self) -> dict[str, Any]:
        """Returns the arguments of `Tokens`, ready for JSON."""
        return {
            "by": self.by,
            "vocabulary": list(self.vocabulary),
            "length": self.length,
            "longer": self.longer,
            "fixed": self.fixed,
            "parts": self.parts,
            "strange": self.strange,
        }


def lengths_up_to(length: int) -> tuple[int, ...]:
    """Returns the lengths of batches for texts of up to so many tokens."""
    return tuple(sorted({math.ceil(length * part / LENGTHS) for part in range(1, LENGTHS + 1)}))


def parts_of(text: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Returns a text's parts, as many as requested, string scalars; "" for missing ones."""
    if count == 1:
        return [text]
    given = tf.strings.split(text, BETWEEN)[:count]
    return tf.unstack(tf.concat([given, tf.fill([count - tf.size(given)], "")], 0), num=count)


def numbers_of(tokens: tf.Tensor, vocabulary: Sequence[str], unknown: int) -> tf.Tensor:
    """Returns the places of tokens in a vocabulary, int32 (t,); `unknown` for others."""
    # A search among hashes needs no table that a served model would have to initialise.
    order, hashes = _hashes(vocabulary)
    hashed = tf.strings.to_hash_bucket_fast(tokens, _HASHED)
    at = tf.searchsorted(tf.constant(hashes), hashed)
    at = tf.minimum(at, len(hashes) - 1)
    known = tf.gather(tf.constant(hashes), at) == hashed
    return tf.where(known, tf.gather(tf.constant(order), at), unknown)


def _hashes(vocabulary: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens' numbers, int32 (v,), and their hashes, int64 (v,), by rising hash."""
    with tf.init_scope(), tf.device("CPU:0"):
        hashed = tf.strings.to_hash_bucket_fast(list(vocabulary), _HASHED).numpy()
    order = np.argsort(hashed)
    if (np.diff(hashed[order]) == 0).any():
        raise ValueError("two tokens of the vocabulary have one hash; leave one out")
    return order.astype(np.int32), hashed[order]


def split(text: tf.Tensor, by: str) -> tf.Tensor:
    """Returns the tokens of a text, strings (t,).

    Example:
        >>> [token.decode() for token in split("I don't know: it's 5€!", "words").numpy()]
        ['i', 'do', "n't", 'know', ':', 'it', "'s", '5', '€', '!']
    """
    if by == "characters":
        lines = tf.strings.regex_replace(text, r"\r\n?", "\n")
        return tf.strings.unicode_split(lines, "UTF-8", errors="replace")
    replace = tf.strings.regex_replace
    lower = tf.strings.lower(text, encoding="utf-8")
    spaced = replace(lower, _SPACE, " ")
    spaced = replace(spaced, _NOT, rf"\1 n{_KEPT_APOSTROPHE}t")
    spaced = replace(spaced, _CLITICS, rf"\1 {_KEPT_APOSTROPHE}\2")
    spaced = replace(spaced, _APART, r" \1 ")
    return tf.strings.split(replace(spaced, _KEPT_APOSTROPHE, "'"))


def count_tokens(
    texts: Iterable[np.ndarray], by: str
) -> tuple[collections.Counter[str], list[int]]:
    """Counts the tokens of texts.

    Args:
        texts: Batches of texts, bytes (b,).
        by: "words" or "characters".

    Returns:
        The count of each token, and the number of tokens of each text.
    """
    counts: collections.Counter[str] = collections.Counter()
    lengths: list[int] = []

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec((None,), tf.string)], reduce_retracing=True
    )
    def tokens_of(batch: tf.Tensor) -> tf.RaggedTensor:
        return tf.map_fn(
            lambda text: split(text, by),
            batch,
            fn_output_signature=tf.RaggedTensorSpec([None], tf.string),
        )

    for batch in texts:
        found = tokens_of(tf.constant(batch))
        counts.update(token.decode("utf-8", "replace") for token in found.flat_values.numpy())
        lengths += found.row_lengths().numpy().tolist()
    return counts, lengths


def choose_length(lengths: Sequence[int], most: int) -> int:
    """Returns a length, a multiple of 8, that 95% of the texts do not exceed.

    Args:
        lengths: The lengths of the training texts, in tokens.
        most: The largest length.

    Example:
        >>> choose_length([3] * 90 + [50] * 10, 512)
        56
    """
    wanted = math.ceil(float(np.quantile(lengths, 0.95)))
    return min(most, max(8, -(-wanted // 8) * 8))


@keras.saving.register_keras_serializable(package="ftkeras")
class TokenIds(keras.layers.Layer):
    """Returns the numbers of tokens unchanged, and keeps their vocabulary.

    It is the first layer of a backbone for texts, so that a saved model contains its vocabulary,
    which `tokens_in` finds. It has no weights.

    Args:
        tokens: The result of `Tokens.as_config`.

    Call arguments:
        inputs: int32 (batch, steps).
    """

    def __init__(self, tokens: dict[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.config = dict(tokens)

    def read(self) -> Any:
        """Returns the vocabulary."""
        return Tokens(**{**self.config, "vocabulary": tuple(self.config["vocabulary"])})

    def call(self, inputs: Any) -> Any:
        return inputs

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, inputs.dtype)  # not the layer's compute dtype

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tokens": dict(self.config)}


def tokens_in(model: keras.Model | None) -> Any:
    """Returns a model's vocabulary, `Tokens` or `Pieces`; None if it contains none."""
    if model is None:
        return None
    for layer in model.layers:
        for part in flat_layers(layer):
            if isinstance(part, TokenIds):
                return part.read()
    return None
