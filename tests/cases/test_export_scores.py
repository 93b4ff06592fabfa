"""Served scores are those of the model, whatever its last activation."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import ftkeras

IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype("float32")


def model_ending_in(*last: keras.layers.Layer) -> keras.Model:
    """Returns a model whose logits differ by several units from class to class."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), *last]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(layer.kernel * 4.0)
    return model


def served_scores(folder: object, classifier: ftkeras.Classifier) -> np.ndarray:
    """Exports the classifier and returns the scores (n, classes) in the order of its classes."""
    loaded = tf.saved_model.load(ftkeras.export_saved_model(classifier, folder, golden={}))
    outputs = loaded.signatures["images"](tf.constant(IMAGES))
    order = np.argsort(outputs["class_indices"], axis=1)
    return np.take_along_axis(outputs["scores"].numpy(), order, axis=1)


LAST = {
    "softmax": (lambda: [keras.layers.Dense(3, "softmax")], ["a", "b", "c"], {}),
    "softmax layer": (
        lambda: [keras.layers.Dense(3), keras.layers.Softmax()],
        ["a", "b", "c"],
        {},
    ),
    "activation layer": (
        lambda: [keras.layers.Dense(3), keras.layers.Activation("softmax")],
        ["a", "b", "c"],
        {},
    ),
    "sigmoids": (
        lambda: [keras.layers.Dense(3, "sigmoid")],
        ["a", "b", "c"],
        {"multi_label": True},
    ),
    "one label": (lambda: [keras.layers.Dense(1, "sigmoid")], ["a"], {"multi_label": True}),
}


@pytest.mark.parametrize("last", LAST)
def test_served_scores_equal_those_of_a_model_that_ends_in_an_activation(last, tmp_path):
    """tensorflow/serving 1570, 1869."""
    layers, names, options = LAST[last]
    model = model_ending_in(*layers())
    served = served_scores(tmp_path, ftkeras.Classifier(model, names, **options))
    np.testing.assert_allclose(served, model(IMAGES), atol=1e-5)


def test_one_unit_tells_two_classes_apart(tmp_path):
    """tensorflow/serving 1869: a softmax over one unit would say 1.0 of everything."""
    model = model_ending_in(keras.layers.Dense(1, "sigmoid"))
    served = served_scores(tmp_path, ftkeras.Classifier(model, ["a", "b"]))
    likely = np.asarray(model(IMAGES))
    np.testing.assert_allclose(served, np.concatenate([1 - likely, likely], axis=1), atol=1e-5)


def test_a_temperature_divides_the_logits_behind_a_softmax(tmp_path):
    """tensorflow/serving 1570: softmax(log(p) / T), since p is not a logit."""
    model = model_ending_in(keras.layers.Dense(3, "softmax"))
    classifier = ftkeras.Classifier(model, ["a", "b", "c"], temperature=2.0)
    right = tf.nn.softmax(tf.math.log(model(IMAGES)) / 2.0)
    np.testing.assert_allclose(served_scores(tmp_path, classifier), right, atol=1e-5)
