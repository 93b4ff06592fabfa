"""Words and pairs of words as numbers: what a classifier of texts can do without a network."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.inputs.text.check import without_mark
from ftkeras.inputs.text.terms import TAKES, TermLogits, Terms, terms_in

WHAT = "logistic regression on words and pairs of words"
_MOST = 50_000  # words and pairs
_MOST_NUMBERS = 5_000_000  # of the classifier: with many classes there are fewer terms


def make(texts: Sequence[bytes], classes: int) -> Terms:
    """Returns the terms that are in most texts, and how rare each is.

    Args:
        texts: The training texts.
        classes: How many there are to tell apart.

    Raises:
        ValueError: The texts have no words.
    """
    found: collections.Counter[bytes] = collections.Counter()
    for terms in _each(texts, terms_in, "count words and pairs"):
        found.update(set(terms.tolist()))
    if not found:
        raise ValueError("the texts have no words")
    most = min(_MOST, max(_MOST_NUMBERS // classes, 1))
    kept = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
    names = tuple(term.decode("utf-8", "replace") for term, _ in kept)
    rarity = tuple(round(math.log((1 + len(texts)) / (1 + n)) + 1, 6) for _, n in kept)
    return Terms(names, rarity)


def matrix(terms: Terms, texts: Sequence[bytes]) -> Any:
    """Returns the weights of all terms in texts, a sparse matrix (n, terms)."""
    from scipy.sparse import csr_matrix

    ids, weights, starts = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)], [0]
    for own in _each(texts, lambda text: tuple(terms.weigh(text).values()), "weigh words"):
        ids.append(own[0])
        weights.append(own[1])
        starts.append(starts[-1] + len(own[0]))
    values = np.concatenate(weights).astype(np.float64)
    return csr_matrix(
        (values, np.concatenate(ids), starts), shape=(len(texts), len(terms.vocabulary))
    )


def joined(
    model: keras.Model, terms: Terms, linear: Sequence[np.ndarray], share: float
) -> keras.Model:
    """Returns a model whose logits are those of another, times `share`, and of the classifier.

    Args:
        model: From numbers of tokens to logits (n, classes).
        terms: What the classifier counts.
        linear: The classifier's kernel and bias.
        share: What the network's logits are multiplied by.
    """
    given = model.input if isinstance(model.input, dict) else {model.inputs[0].name: model.input}
    more = {
        name: keras.Input((None,), dtype=spec.dtype.name, name=name) for name, spec in TAKES.items()
    }
    described = {"vocabulary": list(terms.vocabulary), "rarity": list(terms.rarity)}
    layer = TermLogits(described, share, name="counts")
    logits = layer([model.output, *more.values()])
    layer.set_weights(list(linear))
    return keras.Model({**given, **more}, logits, name=model.name)


def _each(texts: Sequence[bytes], make: Callable[[tf.Tensor], Any], label: str) -> Any:
    """Yields what a function of TensorFlow operations makes of each text."""
    data = tf.data.Dataset.from_tensor_slices(np.array(texts, object))
    data = data.map(lambda text: make(without_mark(text)), num_parallel_calls=tf.data.AUTOTUNE)
    progress = Progress(label, len(texts), "text")
    try:
        for made in data.as_numpy_iterator():
            progress.advance()
            yield made
    finally:
        progress.close()
