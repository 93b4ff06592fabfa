"""Words and pairs of words of a text, weighed by tf-idf, by TensorFlow operations alone.

The same function fits the classifier of counts, reads texts for its model, and runs in the exported
model. So these cannot differ. All of a text counts, whatever the network reads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ftkeras.cache import digest
from ftkeras.inputs.text.tokens import numbers_of, split

IDS, WEIGHTS = "term_ids", "term_weights"
TAKES = {
    IDS: tf.TensorSpec((None,), tf.int32),
    WEIGHTS: tf.TensorSpec((None,), tf.float32),
}
"""What a model with `TermLogits` takes besides, by name; a term that fills a batch weighs 0."""

_SIGNS = r"[\pP\pS]+"


@dataclass(frozen=True)
class Terms:
    """The words and pairs of words that count.

    Args:
        vocabulary: The terms; a pair has a space in it.
        rarity: The inverse document frequency of each.
    """

    vocabulary: tuple[str, ...]
    rarity: tuple[float, ...]

    @functools.cached_property
    def digest(self) -> str:
        """What tells these terms from others."""
        return digest(*self.vocabulary, self.rarity)

    def weigh(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the numbers of the terms in a text, each once, and their weights, both (t,).

        A weight is (1 + log(count)) * rarity; a text's weights have the length 1.

        Example:
            >>> terms = Terms(("red", "red pie"), (1.0, 1.0))
            >>> [x.numpy().tolist() for x in terms.weigh(tf.constant("Cold, cold red.")).values()]
            [[0], [1.0]]
        """
        ids = numbers_of(terms_in(text), self.vocabulary, -1)
        ids, _, counts = tf.unique_with_counts(tf.boolean_mask(ids, ids >= 0))
        rarity = tf.gather(tf.constant(self.rarity, tf.float32), ids)
        weights = (1 + tf.math.log(tf.cast(counts, tf.float32))) * rarity
        return {IDS: ids, WEIGHTS: tf.math.l2_normalize(weights)}


def terms_in(text: tf.Tensor) -> tf.Tensor:
    """Returns the words of a text without signs, then its pairs of words, strings (t,)."""
    tokens = split(text, "words")
    words = tf.boolean_mask(tokens, ~tf.strings.regex_full_match(tokens, _SIGNS))
    return tf.concat([words, tf.strings.join([words[:-1], words[1:]], " ")], 0)


@keras.saving.register_keras_serializable(package="ftkeras")
class TermLogits(keras.layers.Layer):
    """Adds the logits of a linear model on terms to those of a network.

    It knows what its terms are, so that a saved model says how to read a text: `terms_in_model`
    finds it.

    Args:
        terms: The fields of `Terms`.
        share: What the network's logits are multiplied by.

    Call arguments:
        inputs: The network's logits (batch, units), `term_ids` int32 (batch, t), and `term_weights`
            float (batch, t).

    Returns:
        Float32 logits (batch, units).
    """

    activation = "linear"  # says that these are logits; see `outputs.ending`

    def __init__(self, terms: Mapping[str, Any], share: float = 1.0, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.terms, self.share = dict(terms), share

    def read(self) -> Terms:
        """Returns the terms."""
        return Terms(tuple(self.terms["vocabulary"]), tuple(self.terms["rarity"]))

    def build(self, input_shape: Any) -> None:
        units = input_shape[0][-1]
        self.kernel = self.add_weight((len(self.terms["vocabulary"]), units), name="kernel")
        self.bias = self.add_weight((units,), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        logits, ids, weights = inputs
        rows = keras.ops.take(self.kernel, ids, axis=0)  # (batch, t, units)
        counted = keras.ops.sum(rows * weights[..., None], axis=1)  # (batch, units)
        return self.share * keras.ops.cast(logits, "float32") + counted + self.bias

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        own = {"terms": dict(self.terms), "share": self.share}
        return {**super().get_config(), **own}


def terms_in_model(model: keras.Model | None) -> Terms | None:
    """Returns the terms that a model counts; None if it counts none."""
    layers = [] if model is None else model.layers
    return next((layer.read() for layer in layers if isinstance(layer, TermLogits)), None)
