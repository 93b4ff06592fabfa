"""The head: shapes, dtypes, names, the bias it starts from."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.backbones.backbone import Backbone, gives_of
from ftkeras.config.schema import HiddenLayer
from ftkeras.errors import UserError
from ftkeras.model.assemble import build_model
from ftkeras.model.head import attach_head
from ftkeras.model.pooling import POOLINGS, SequencePooling
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.one_of import OneOf


def head(**options) -> keras.Model:
    features = keras.Input((2, 3, 5))
    return keras.Model(features, attach_head(features, classes=4, **options))


FEATURES = np.random.default_rng(0).normal(size=(2, 2, 3, 5)).astype("float32")


def test_pooling_is_what_it_says():
    for pooling, expected in {
        "avg": FEATURES.mean(axis=(1, 2)),
        "max": FEATURES.max(axis=(1, 2)),
        "avg_max": np.concatenate([FEATURES.mean(axis=(1, 2)), FEATURES.max(axis=(1, 2))], axis=-1),
    }.items():
        model = head(pooling=pooling)
        pooled = keras.Model(model.input, model.get_layer("head_pool").output)
        np.testing.assert_allclose(pooled(FEATURES), expected, rtol=1e-5, atol=1e-6)


def test_hidden_layers_come_in_the_order_dense_norm_activation_dropout():
    hidden = [
        HiddenLayer(units=7, activation="gelu", normalization="layer", dropout=0.1),
        HiddenLayer(units=6),
    ]
    model = head(hidden=hidden, dropout=0.5)
    assert [layer.name for layer in model.layers[1:]] == [
        "head_pool",
        "head_dense_1",
        "head_norm_1",
        "head_activation_1",
        "head_dropout_1",
        "head_dense_2",
        "head_activation_2",
        "head_dropout",
        "logits",
    ]
    assert model.get_layer("head_dense_1").units == 7
    assert isinstance(model.get_layer("head_norm_1"), keras.layers.LayerNormalization)
    assert model.get_layer("head_dropout").rate == 0.5


def test_the_initializer_is_used_and_seeded():
    kernels = [
        head(initializer="he_normal", seed=seed).get_layer("logits").kernel.numpy()
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert not head(initializer="zeros").get_layer("logits").kernel.numpy().any()


def test_logits_are_float32_under_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = head(hidden=[HiddenLayer(units=3)])
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("head_dense_1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_untrained_logits_predict_the_class_frequencies():
    labels = np.array([0] * 6 + [1] * 3 + [2] * 1)
    bias = OneOf(tuple("abcd")).bias(labels)
    model = head(bias=bias, initializer="zeros")
    scores = keras.ops.softmax(model(FEATURES))[0]
    np.testing.assert_allclose(scores, [7 / 14, 4 / 14, 2 / 14, 1 / 14], rtol=1e-5)


def test_untrained_sigmoids_predict_each_labels_frequency():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    bias = AnyOf(("a", "b")).bias(labels)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), [4 / 6, 2 / 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": [HiddenLayer(units=3, activation="rleu")]}, "no Keras activation 'rleu'"),
        ({"initializer": "glorot_unifrom"}, "Did you mean 'glorot_uniform'"),
        ({"hidden": [HiddenLayer(units=3, initializer="nope")]}, "no Keras initializer 'nope'"),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        head(**options)


# ------------------------------------------------------------------------------ sequences

STEPS = np.random.default_rng(1).normal(size=(4, 5, 3)).astype("float32") - 2.0
MASK = np.array([[1, 1, 0, 0, 0], [1] * 5, [0, 0, 1, 1, 0], [0] * 5], bool)  # any padding, or all


def by_hand(pooling, query):
    """One vector for each sequence, from its real steps alone; zeros if there are none."""

    def one(real):
        scores = real @ query / np.sqrt(3.0)
        weights = np.exp(scores) / np.exp(scores).sum()
        return {
            "mean": real.mean(axis=0),
            "max": real.max(axis=0),
            "first": real[0],
            "last": real[-1],
            "attention": weights @ real,
        }[pooling]

    rows = (steps[mask] for steps, mask in zip(STEPS, MASK, strict=True))
    return np.stack([one(real) if len(real) else np.zeros(3) for real in rows])


@pytest.mark.parametrize("pooling", POOLINGS["sequence"])
def test_pooling_of_a_sequence_reads_no_padding(pooling):
    layer = SequencePooling(pooling)
    query = np.zeros(3, "float32")
    layer.build(STEPS.shape)
    if pooling == "attention":
        np.testing.assert_allclose(layer(STEPS, mask=MASK), by_hand("mean", query), atol=1e-6)
        query = np.array([0.5, -1.0, 2.0], "float32")
        layer.set_weights([query])
    expected = by_hand(pooling, query)
    for mask in (MASK, MASK.astype("int32")):
        np.testing.assert_allclose(layer(STEPS, mask=mask), expected, atol=1e-6)
    garbage = np.where(MASK[..., None], STEPS, 1e6).astype("float32")
    np.testing.assert_array_equal(layer(garbage, mask=MASK), layer(STEPS, mask=MASK))
    np.testing.assert_allclose(layer(STEPS), layer(STEPS, mask=np.ones_like(MASK)))


@pytest.mark.parametrize("pooling", POOLINGS["sequence"])
def test_a_head_on_a_sequence_uses_its_keras_mask_and_is_saved(pooling, tmp_path):
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 3, mask_zero=True, name="embed")(tokens)
    model = keras.Model(tokens, attach_head(x, 2, pooling=pooling, dropout=0.0))
    table = model.get_layer("embed").embeddings.numpy()
    ids = np.array([[4, 5, 6, 0, 0], [7, 8, 1, 2, 3]], np.int32)
    layer = model.get_layer("head_pool")
    pooled = np.stack([layer(table[row[row > 0]][None])[0] for row in ids])
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(model(ids), pooled @ kernel + bias, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(ids), model(ids))


def test_the_query_of_attention_learns():
    sequence = keras.Input((5, 3))
    model = keras.Model(sequence, attach_head(sequence, 2, pooling="attention", dropout=0.0))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(STEPS, np.array([0, 1, 0, 1]), verbose=0)
    assert np.abs(model.get_layer("head_pool").query.numpy()).min() > 0


@pytest.mark.parametrize(
    ("shape", "pooling", "message"),
    [
        ((4, 4, 3), "mean", "'mean' does not fit a backbone that gives a map"),
        ((4, 4, 3), "none", "choose avg, max, avg_max"),
        ((5, 3), "avg", "'avg' does not fit a backbone that gives a sequence"),
        ((3,), "avg", "'avg' does not fit a backbone that gives a vector"),
        ((2, 4, 4, 3), None, r"it gives \(None, 2, 4, 4, 3\)"),
        ((), "avg", r"it gives \(None,\)"),
    ],
)
def test_a_pooling_that_does_not_fit_is_refused(shape, pooling, message):
    with pytest.raises(UserError, match=message):
        attach_head(keras.Input(shape), 2, pooling=pooling)
    with pytest.raises(UserError, match="is none of mean"):
        SequencePooling("avg")


@pytest.mark.parametrize(
    ("shape", "gives", "same_as"),
    [((4, 4, 3), "map", "avg"), ((5, 3), "sequence", "mean"), ((3,), "vector", "none")],
)
def test_the_default_pooling_follows_from_what_the_backbone_gives(shape, gives, same_as):
    assert gives_of((None, *shape)) == gives
    values = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    outputs = []
    for pooling in (None, same_as):
        features = keras.Input(shape)
        outputs.append(keras.Model(features, attach_head(features, 2, pooling=pooling))(values))
    np.testing.assert_array_equal(*outputs)


def test_a_backbone_with_named_inputs_gets_a_head_that_reads_its_padding_mask():
    inputs = {
        name: keras.Input((None,), name=name, dtype="int32") for name in ("ids", "padding_mask")
    }
    features = keras.layers.Embedding(9, 3, name="embed")(inputs["ids"])
    features = features * keras.ops.cast(inputs["padding_mask"], "float32")[..., None] + 5.0
    backbone = Backbone("tiny", keras.Model(inputs, features), "none", 0, 0, ())
    assert backbone.gives == "sequence"
    model = build_model(backbone, 2, pooling="last", dropout=0.0)
    ids = np.array([[4, 5, 0, 0], [7, 8, 1, 2]], np.int32)
    logits = model({"ids": ids, "padding_mask": (ids > 0).astype("int32")})
    last = backbone.model.get_layer("embed").embeddings.numpy()[[5, 2]] + 5.0
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(logits, last @ kernel + bias, atol=1e-5)
