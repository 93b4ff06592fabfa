"""Splits of small models, by hand; `tests/backbones/test_applications.py` splits every backbone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones import load_backbone
from ftkeras.model.assemble import build_model
from ftkeras.phases.freezing import set_trainable, trained_weights
from ftkeras.phases.selectors import weights_of
from ftkeras.trunk.split import Spec, split_model

layers = keras.layers


def images_like(model, count=2):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def names(part):
    return [step.operation.name for step in part.graph.steps]


def chain(*between, tail_units=2):
    """An image through a frozen convolution, some layers, and a trained head."""
    images = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(images)
    for layer in between:
        x = layer(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(images, layers.Dense(tail_units, name="logits")(x))
    for layer in model.layers[:-1]:
        layer.trainable = False
    return model


class Noise(layers.Layer):
    """Random in training, but without anything that says so."""

    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


class Counter(layers.Layer):
    """Changes state at every call, though it isn't trainable."""

    def build(self, _):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x


class Scale(layers.Layer):
    """A user's own layer, which does nothing unusual."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, x):
        return x * self.scale


# --------------------------------------------------------------------------- by hand


def test_trunk_frontier_and_tail_of_a_small_model():
    model = chain()
    split = split_model(model)
    assert names(split.trunk) == ["conv", "pool"]
    assert names(split.tail) == ["logits"]
    assert split.frontier == (Spec((4,), "float32"),)
    assert split.tail.trainable_variables == model.trainable_variables


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Dropout(0.5),
        lambda: layers.SpatialDropout2D(0.1),
        lambda: layers.GaussianNoise(0.1),
        lambda: layers.RandomFlip("horizontal"),
        lambda: layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x)), output_shape=(6, 6, 4)),
        lambda: layers.TimeDistributed(layers.Dropout(0.5)),
        lambda: layers.SpectralNormalization(layers.Conv2D(4, 1)),
        lambda: layers.Conv2D(4, 1, activity_regularizer="l2"),
        lambda: Noise(),
        lambda: Counter(),
    ],
)
def test_what_is_random_or_stateful_in_training_never_lands_in_a_trunk(layer):
    layer = layer()
    model = chain(layer)
    split = split_model(model)
    assert names(split.trunk) == ["conv"]
    assert names(split.tail) == [layer.name, "pool", "logits"]


def test_operations_that_may_hold_anything_are_not_in_the_trunk():
    inner_in = keras.Input((6, 6, 4))
    inner = keras.Function(inner_in, layers.Dropout(0.5)(layers.Conv2D(4, 1)(inner_in)))
    assert names(split_model(chain(inner)).trunk) == ["conv"]
    mapped = chain(lambda x: keras.ops.vectorized_map(lambda one: one * 2.0, x))
    assert names(split_model(mapped).trunk) == ["conv"]
    assert len(names(split_model(chain(lambda x: keras.ops.exp(x) * 2.0)).trunk)) == 4


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Dropout(0.0),
        lambda: layers.Activation("gelu"),
        lambda: layers.LayerNormalization(),
        lambda: layers.Conv2D(4, 1, kernel_regularizer="l2"),
        lambda: layers.Lambda(lambda x: x * 2.0),
        lambda: Scale(),
    ],
)
def test_what_is_always_the_same_is_in_the_trunk(layer):
    layer = layer()
    assert layer.name in names(split_model(chain(layer)).trunk)


def test_batch_norm_is_in_the_trunk_only_when_its_statistics_stay():
    norm = layers.BatchNormalization(name="norm")
    model = chain(norm)
    assert "norm" in names(split_model(model).trunk)
    norm.trainable = True
    for variable in norm.trainable_variables:
        variable.trainable = False  # nothing trains, but the moving statistics would move
    assert "norm" not in names(split_model(model).trunk)
    norm.trainable = False
    norm.beta.trainable = True  # the offset trains alone
    assert "norm" not in names(split_model(model).trunk)


def test_silenced_random_layers_do_not_end_the_trunk():
    model = chain(layers.Dropout(0.5, name="drop"), Noise(name="noise"))
    split = split_model(model, silence=True)
    assert names(split.trunk) == ["conv", "drop", "noise", "pool"]
    images = images_like(model)
    np.testing.assert_allclose(split.tail(split.trunk(images)), model(images), rtol=1e-5)
    counted = split_model(chain(Counter(name="counter")), silence=True)
    assert "counter" not in names(counted.trunk)


def test_skip_connections_cross_as_several_tensors_and_inner_ones_are_not_stored():
    images = keras.Input((8, 8, 3))
    a = layers.Conv2D(4, 3, padding="same", name="a")(images)
    b = layers.Conv2D(5, 3, padding="same", name="b")(a)
    c = layers.Conv2D(6, 3, padding="same", strides=2, name="c")(b)  # b is used by c alone
    d = layers.Conv2D(4, 3, padding="same", name="d")(layers.UpSampling2D()(c))
    out = layers.Dense(1)(layers.Flatten()(layers.Add()([a, d])))
    model = keras.Model(images, [out, c])
    for name in "abc":
        model.get_layer(name).trainable = False
    split = split_model(model)
    # UpSampling is cheap, and what goes into it is smaller than what comes out.
    assert [spec.shape for spec in split.frontier] == [(8, 8, 4), (4, 4, 6)]
    for found, expected in zip(
        split.tail(split.trunk(images_like(model))), model(images_like(model)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_cheap_steps_go_to_the_tail_where_one_tensor_then_serves_several():
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="trunk")(images)  # (6, 6, 4)
    preact = layers.Activation("relu")(layers.BatchNormalization()(x))
    y = layers.Conv2D(4, 3, padding="same", name="trained")(preact)
    out = layers.GlobalAveragePooling2D()(layers.Add()([x, y, layers.AveragePooling2D(1)(x)]))
    model = keras.Model(images, layers.Dense(2)(out))
    set_trainable(model, trained_weights(weights_of(model), ["re:trained"], "frozen"), "frozen")
    split = split_model(model)
    assert [spec.shape for spec in split.frontier] == [(6, 6, 4)]
    assert names(split.trunk) == ["trunk"]


def test_nothing_to_store():
    model = chain()
    model.get_layer("conv").trainable = True
    assert split_model(model) is None  # all trains
    model.trainable = False
    assert split_model(model) is None  # nothing does
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(layers.Normalization()(layers.Rescaling(2.0)(images)))
    assert split_model(keras.Model(images, x)) is None  # only what costs nothing is frozen
    images = keras.Input((None, None, 3))
    frozen = layers.Conv2D(4, 3, trainable=False)(images)
    assert split_model(keras.Model(images, layers.Conv2D(4, 3)(frozen))) is None  # no fixed size


def test_half_precision_keeps_the_images_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = chain()
        split = split_model(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert split.frontier == (Spec((4,), "float16"),)
    images = images_like(model) * 1000  # more than float16 holds
    expected = model(images / 1000)
    np.testing.assert_allclose(split.tail(split.trunk(images / 1000)), expected, rtol=1e-3)
    assert split.trunk.graph.inputs[0].dtype == "float32"


# ---------------------------------------------------------------------- the model lives on


def test_the_model_saves_loads_and_runs_as_before_after_many_splits(tmp_path):
    backbone = load_backbone("MobileNetV3Small", weights="none", image_size=32)
    model = build_model(backbone, 3)
    weights = weights_of(model, backbone.blocks)
    images = images_like(model)
    set_trainable(model, weights.all, "train")
    before, config = model(images).numpy(), model.get_config()
    calls = sum(len(layer._inbound_nodes) for layer in model._flatten_layers())
    for selector in ["blocks[-1:]", "blocks[-3:]", "blocks[-6:]"] * 2:
        set_trainable(model, trained_weights(weights, ["head", selector], "frozen"), "frozen")
        split = split_model(model)
        np.testing.assert_allclose(split.tail(split.trunk(images)), before, rtol=1e-4, atol=1e-5)
    assert sum(len(layer._inbound_nodes) for layer in model._flatten_layers()) == calls
    set_trainable(model, weights.all, "train")
    assert model.get_config() == config
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded(images), before, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(images), before)


def test_training_from_the_frontier_is_training_the_model():
    """One optimizer, two phases; the first one fed with what the trunk put out."""

    def train(stored):
        keras.utils.set_random_seed(1)
        model = chain(layers.BatchNormalization(name="norm"))
        rng = np.random.default_rng(0)
        images = rng.normal(size=(24, 8, 8, 3)).astype("float32")
        labels = rng.integers(0, 2, 24)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
        model.optimizer.build(model.get_layer("conv").variables + model.trainable_variables)
        options = {"batch_size": 8, "shuffle": False, "verbose": 0}
        if stored:
            split = split_model(model)
            given = split.trunk.predict(images, verbose=0)
            split.tail.compile(model.optimizer, loss, metrics=["accuracy"])
            first = split.tail.fit(
                given, labels, epochs=2, validation_data=(given, labels), **options
            )
            np.testing.assert_allclose(model(images), split.tail(given), rtol=1e-5, atol=1e-6)
            with pytest.raises(ValueError, match="expected shape"):
                model(given)  # the whole model is what it was
        else:
            first = model.fit(images, labels, epochs=2, validation_data=(images, labels), **options)
        model.get_layer("conv").trainable = True
        model.train_function = None
        second = model.fit(images, labels, epochs=4, initial_epoch=2, **options)
        assert model.predict(images, verbose=0).shape == (24, 2)
        return [first.history[k] for k in sorted(first.history)] + [second.history["loss"]]

    for found, expected in zip(train(stored=True), train(stored=False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
