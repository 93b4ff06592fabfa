"""The head: shapes, dtypes, names, the bias it starts from."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.errors import UserError
from ftkeras.model.head import Hidden, attach_head, frequency_bias


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
    hidden = [Hidden(7, activation="gelu", normalization="layer", dropout=0.1), Hidden(6)]
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
        model = head(hidden=[Hidden(3)])
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("head_dense_1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_untrained_logits_predict_the_class_frequencies():
    labels = np.array([0] * 6 + [1] * 3 + [2] * 1)
    bias = frequency_bias(labels, 4, multi_label=False)
    model = head(bias=bias, initializer="zeros")
    scores = keras.ops.softmax(model(FEATURES))[0]
    np.testing.assert_allclose(scores, [7 / 14, 4 / 14, 2 / 14, 1 / 14], rtol=1e-5)


def test_untrained_sigmoids_predict_each_labels_frequency():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    bias = frequency_bias(labels, 2, multi_label=True)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), [4 / 6, 2 / 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": [Hidden(3, activation="rleu")]}, "no Keras activation 'rleu'"),
        ({"initializer": "glorot_unifrom"}, "Did you mean 'glorot_uniform'"),
        ({"hidden": [Hidden(3, initializer="nope")]}, "no Keras initializer 'nope'"),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        head(**options)
