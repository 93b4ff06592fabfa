"""Grad-CAM against closed forms and planted signals."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.inputs.image import explanation
from ftkeras.outputs.ending import ending_of


def grad_cam(model: keras.Model):
    return explanation.grad_cam(model, lambda outputs: ending_of(model).logits(outputs))


def nested(pool: keras.layers.Layer) -> keras.Model:
    """A backbone of one 4x4 average, as a nested model, under pooling and two logits."""
    inner = keras.Input((32, 32, 3))
    backbone = keras.Model(inner, keras.layers.AveragePooling2D(8)(inner), name="backbone")
    images = keras.Input((32, 32, 3))
    x = pool(backbone(keras.layers.Rescaling(1 / 255)(images)))
    x = keras.layers.Dropout(0.5)(x)
    logits = keras.layers.Dense(2, name="logits")
    model = keras.Model(images, logits(x))
    kernel = np.array([[1.0, -1.0], [0.0, 2.0], [0.0, 0.0]])  # (red, green, blue) x classes
    logits.set_weights([kernel, np.zeros(2)])
    return model


def two_colours() -> np.ndarray:
    """Red above left, green below right, on black."""
    image = np.zeros((1, 32, 32, 3), np.float32)
    image[0, :8, :8, 0] = 255
    image[0, 24:, 24:, 1] = 255
    return image


def test_each_class_is_seen_where_its_colour_is():
    explain = grad_cam(nested(keras.layers.GlobalAveragePooling2D()))
    assert explain is not None
    images = np.repeat(two_colours(), 2, axis=0)
    red, green = explain(images, np.array([0, 1]))
    expected = np.zeros((4, 4))
    expected[0, 0] = 1.0
    np.testing.assert_allclose(red, expected, atol=1e-6)
    np.testing.assert_allclose(green, expected[::-1, ::-1], atol=1e-6)


def test_where_nothing_speaks_for_a_class_the_map_is_empty():
    explain = grad_cam(nested(keras.layers.GlobalAveragePooling2D()))
    only_red = two_colours() * np.array([1, 0, 0], np.float32)
    assert not explain(only_red, np.array([1])).any()


def test_it_is_the_gradient_averaged_times_the_features():
    model = nested(keras.layers.GlobalMaxPooling2D())
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    features = (image / 255).reshape(4, 8, 4, 8, 3).mean(axis=(1, 3))  # (4, 4, 3)
    # The maximum passes each channel's gradient to one of 16 places.
    heat = np.maximum(features @ np.array([-1.0, 2.0, 0.0]) / 16, 0)
    explain = grad_cam(model)
    np.testing.assert_allclose(explain(image, np.array([1]))[0], heat / heat.max(), atol=1e-5)


def test_two_pools_side_by_side_are_one_head():
    image = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(4, 3)(image)
    both = [
        keras.layers.GlobalAveragePooling2D()(features),
        keras.layers.GlobalMaxPooling2D()(features),
    ]
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Concatenate()(both)))
    heat = grad_cam(model)(np.ones((3, 8, 8, 3), np.float32), np.array([0, 1, 0]))
    assert heat.shape == (3, 6, 6)


def test_a_model_without_a_feature_map_cannot_be_explained():
    vector = keras.Input((4,))
    assert grad_cam(keras.Model(vector, keras.layers.Dense(2)(vector))) is None

    class Own(keras.Model):
        def call(self, x):
            return x

    assert grad_cam(Own()) is None


@pytest.mark.filterwarnings("ignore:`input_shape` is undefined")
def test_a_real_backbone_is_explained():
    import ftkeras

    backbone = ftkeras.load_backbone("MobileNetV2", weights="none", image_size=64)
    explain = grad_cam(ftkeras.build_model(backbone, classes=3))
    heat = explain(np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)), np.array([0, 2]))
    assert heat.shape == (2, 2, 2)
    assert heat.min() >= 0 and heat.max() <= 1
