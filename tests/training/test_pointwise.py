"""Gradients of one-pixel convolutions."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.training.pointwise import pointwise, quick_pointwise_gradients


def small_model() -> keras.Model:
    inner = keras.Sequential([keras.Input((4, 5, 6)), keras.layers.Conv2D(7, 1, use_bias=False)])
    images = keras.Input((4, 5, 3))
    x = keras.layers.Conv2D(6, 1, activation="relu")(images)
    x = keras.layers.Conv2D(7, 1, padding="same")(inner(x))
    x = keras.layers.Conv2D(7, 3, padding="same")(x)
    return keras.Model(images, keras.layers.Conv2D(2, 1, strides=2)(x))


def outputs_and_gradients(
    model: keras.Model, eager: bool = False
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    images = tf.constant(np.random.default_rng(0).normal(size=(3, 4, 5, 3)), tf.float32)

    def run() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images)
            loss = tf.reduce_sum(outputs**2)
        return outputs, tape.gradient(loss, [images, *(v.value for v in model.trainable_variables)])

    return run() if eager else tf.function(run)()


@pytest.mark.parametrize("eager", [False, True])
def test_outputs_are_the_same_to_the_bit_and_gradients_to_rounding(eager):
    model = small_model()
    outputs, gradients = outputs_and_gradients(model, eager)
    with quick_pointwise_gradients(model):
        quick_outputs, quick_gradients = outputs_and_gradients(model, eager)
    np.testing.assert_array_equal(quick_outputs, outputs)
    for quick, plain in zip(quick_gradients, gradients, strict=True):
        np.testing.assert_allclose(quick, plain, rtol=1e-4, atol=1e-5)


def test_only_what_it_serves_is_changed_and_only_for_as_long():
    model = small_model()
    convolutions = [x for x in model._flatten_layers() if isinstance(x, keras.layers.Conv2D)]
    with quick_pointwise_gradients(model):
        changed = [layer.convolution_op is pointwise for layer in convolutions]
    assert sorted(changed) == [False, False, True, True, True]  # not the 3x3, not the strided one
    assert not any("convolution_op" in vars(layer) for layer in convolutions)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_under_a_dtype_policy_gradients_have_the_weights_dtype(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    with quick_pointwise_gradients(model):
        _, gradients = outputs_and_gradients(model)
    assert {gradient.dtype for gradient in gradients} == {tf.float32}
