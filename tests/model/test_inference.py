"""A model in inference mode: traced once, and following its weights."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from ftkeras.model.inference import outputs_function, with_kept_outputs


def model() -> keras.Model:
    image = keras.Input((4, 4, 3))
    x = keras.layers.Dropout(0.9)(image)  # changes everything unless inference is meant
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(2, use_bias=False, name="logits")(x))


def test_uneven_batches_do_not_trace_again():
    answer = outputs_function(model())
    for length in (8, 3, 1):
        assert answer(tf.zeros((length, 4, 4, 3))).shape == (length, 2)
    [spec], _ = answer.structured_input_signature  # one graph, which cannot be traced again
    assert spec.shape.as_list() == [None, 4, 4, 3]


def test_a_model_is_traced_once_and_its_weights_count_as_they_are():
    asked = model()
    images = tf.ones((1, 4, 4, 3))
    for scale in (1.0, 2.0):
        asked.get_layer("logits").kernel.assign(np.full((3, 2), scale))
        np.testing.assert_allclose(outputs_function(asked)(images), [[3 * scale] * 2])
    assert outputs_function(asked) is outputs_function(asked)
    assert outputs_function(model()) is not outputs_function(asked)


def test_the_graph_is_no_part_of_what_is_saved(tmp_path):
    asked = model()
    outputs_function(asked)
    asked.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    images = tf.ones((2, 4, 4, 3))
    np.testing.assert_allclose(outputs_function(again)(images), outputs_function(asked)(images))
    asked.export(tmp_path / "export", verbose=False)
    served = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(served.serve(images), outputs_function(asked)(images), rtol=1e-6)


def test_another_model_of_the_same_layers_answers_by_the_graph_that_there_is():
    asked = model()
    answer = outputs_function(asked)
    plain = with_kept_outputs(keras.Model(asked.input, asked.output), asked)
    assert outputs_function(plain) is answer
    assert outputs_function(with_kept_outputs(model(), model())) is not answer


def test_many_models_with_few_batches_each_give_no_warning_of_retracing(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(tf.get_logger(), "warning", lambda text, *more: said.append(text))
    for _ in range(7):
        assert outputs_function(model())(tf.zeros((2, 4, 4, 3))).shape == (2, 2)
    assert not said
