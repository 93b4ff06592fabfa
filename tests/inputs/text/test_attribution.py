"""Attributions against closed forms: what each token adds, and that all of it is accounted for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones.text.catalog import TEXT_CATALOG
from ftkeras.backbones.text.recurrent import Shape, build
from ftkeras.inputs.text.attribution import integrated_gradients
from ftkeras.inputs.text.tokens import SPECIAL, Tokens
from ftkeras.model.assemble import build_model
from ftkeras.outputs.ending import ending_of

VOCABULARY = (*SPECIAL, "good", "bad", "plain", "film")


def linear(pool: str = "sum") -> keras.Model:
    """The logits are the sums of the tokens' rows in a table."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    table = keras.layers.Embedding(7, 2, name="table")
    inner = keras.Model(ids, table(ids), name="backbone")
    outer = keras.Input((None,), dtype="int32", name="token_ids")
    logits = getattr(keras.ops, pool)(inner(outer), axis=1)
    table.set_weights([np.array([[0, 0], [0, 0], [0, 0], [2, -1], [-1, 3], [0, 0], [0.5, 0.5]])])
    return keras.Model(outer, logits)


def explain(model: keras.Model, ids: list[int], label: int, exclusive: bool = False) -> np.ndarray:
    weigh = integrated_gradients(
        model, ending_of(model, exclusive=exclusive).logits, exclusive=exclusive
    )
    assert weigh is not None
    return weigh(tf.constant(ids, tf.int32), label)


def test_of_a_linear_model_they_are_what_each_token_adds():
    ids = [3, 6, 5, 4]
    np.testing.assert_allclose(explain(linear(), ids, 0), [2, 0.5, 0, -1], atol=1e-6)
    np.testing.assert_allclose(explain(linear(), ids, 1), [-1, 0.5, 0, 3], atol=1e-6)
    mean = explain(linear("mean"), ids, 1)
    np.testing.assert_allclose(mean, np.array([-1, 0.5, 0, 3]) / 4, atol=1e-6)


def test_what_speaks_for_all_classes_alike_counts_for_none_if_one_is_right():
    weights = explain(linear(), [6, 3], 0, exclusive=True)
    np.testing.assert_allclose(weights[0], 0, atol=1e-6)
    log_share = -np.log1p(np.exp(-1.5 - 1.5)) - np.log(0.5)  # of class 0, against no text at all
    np.testing.assert_allclose(weights.sum(), log_share, rtol=1e-3)


@pytest.mark.parametrize("name", ["lstm", "bigru"])
def test_they_add_up_to_the_difference_from_an_empty_text(name):
    tokens = Tokens("words", VOCABULARY, 8)
    backbone = build(TEXT_CATALOG[name], tokens, shape=Shape(units=5, embedding=4), seed=3)
    model = build_model(backbone, classes=3, seed=1)
    table = next(x for x in backbone.model.layers if isinstance(x, keras.layers.Embedding))
    table.set_weights([np.random.default_rng(0).normal(size=(7, 4))])
    ids = [3, 6, 4, 5, 3]
    weights = explain(model, [*ids, 0, 0], 1)
    np.testing.assert_allclose(weights[5:], 0, atol=1e-6)  # padding is masked here as in training
    logits = model(tf.constant([ids]))[0, 1]
    table.set_weights([np.zeros((7, 4))])  # still masked by number
    nothing = model(tf.constant([ids]))[0, 1]
    assert abs(float(logits - nothing)) > 0.05
    np.testing.assert_allclose(weights.sum(), logits - nothing, atol=3e-3)


def test_the_largest_vocabulary_is_that_of_tokens_and_other_inputs_stay():
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    kinds = keras.Input((None,), dtype="int32", name="kinds")
    words = keras.layers.Embedding(50, 3, name="words", embeddings_initializer="ones")
    x = keras.layers.Embedding(4, 3, name="kind", embeddings_initializer="ones")(kinds) + words(ids)
    logits = keras.layers.Dense(2, kernel_initializer="ones")(keras.ops.sum(x, axis=1))
    model = keras.Model({"token_ids": ids, "kinds": kinds}, logits)
    weigh = integrated_gradients(model, ending_of(model).logits, exclusive=False)
    given = {"token_ids": tf.constant([1, 2]), "kinds": tf.constant([0, 1])}
    np.testing.assert_allclose(weigh(given, 0), [3, 3], atol=1e-5)  # of six, three are the kinds'


def test_a_model_without_an_embedding_cannot_be_explained():
    numbers = keras.Input((4, 2))
    model = keras.Model(numbers, keras.layers.Dense(2)(keras.layers.Flatten()(numbers)))
    assert integrated_gradients(model, ending_of(model).logits) is None

    class Own(keras.Model):
        def call(self, x):
            return x

    assert integrated_gradients(Own(), lambda x: x) is None
