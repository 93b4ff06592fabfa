"""Words and pairs of words: the weights of texts, and the layer that adds their logits."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.inputs.base import PLAIN
from ftkeras.inputs.text import counts
from ftkeras.inputs.text.input import make
from ftkeras.inputs.text.terms import terms_in_model
from ftkeras.inputs.text.tokens import TokenIds, Tokens

TEXTS = [b"A red apple, a red pie!", b"the blue car", b"Blue cars; the red car?", b"pie"]


@pytest.fixture(scope="module")
def terms():
    return counts.make(TEXTS, 2)


@pytest.fixture(scope="module")
def model(terms):
    tokens = Tokens("words", ("", "[UNK]", "red", "blue"), 2)
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = TokenIds(tokens.as_config(), name="tokens")(ids)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(4, 3, mask_zero=True)(x))
    network = keras.Model(ids, keras.layers.Dense(2, name="logits")(x))
    kernel = np.random.default_rng(0).normal(size=(len(terms.vocabulary), 2)).astype(np.float32)
    return counts.joined(network, terms, (kernel, np.float32([1.0, -1.0])), 0.5)


def test_texts_weigh_what_scikit_learn_says(terms):
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b"
    ).fit(TEXTS)
    places = [vectorizer.vocabulary_[term] for term in terms.vocabulary]
    assert len(places) == len(vectorizer.vocabulary_)
    expected = vectorizer.transform(TEXTS).toarray()[:, places]
    np.testing.assert_allclose(counts.matrix(terms, TEXTS).toarray(), expected, atol=1e-6)


def test_many_classes_leave_fewer_terms_and_no_words_are_an_error(terms):
    [most] = counts.make(TEXTS, 5_000_000).vocabulary
    assert most in terms.vocabulary
    with pytest.raises(ValueError, match="no words"):
        counts.make([b"?!", b"..."], 2)


def test_a_saved_model_reads_whole_texts_whatever_they_are_padded_to(terms, model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert terms_in_model(loaded) == terms
    kind = make({"kind": "text"}, loaded)
    layer = loaded.get_layer("counts")
    network = keras.Model(loaded.input, loaded.get_layer("logits").output)
    for text in [TEXTS[0], b"\xef\xbb\xbfthe " + TEXTS[2], b"nothing known"]:
        tree = kind.read(tf.constant(text), PLAIN, tf.zeros(2, tf.int32))
        batch = {name: x[None] for name, x in tree.items()}
        assert set(batch) == set(kind.takes) and batch["token_ids"].shape[1] == 2  # cut
        own, bias = (x.numpy() for x in layer.weights)
        counted = counts.matrix(terms, [text]) @ own + bias
        expected = 0.5 * network(batch).numpy() + counted
        np.testing.assert_allclose(loaded(batch), expected, atol=1e-5)
        longer = {name: tf.pad(x, [(0, 0), (0, 5)]) for name, x in batch.items()}
        np.testing.assert_allclose(loaded(longer), loaded(batch), atol=1e-6)
