"""New classes on an old head, and what sets them right against the old ones."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.tasks.incremental.distill import Distillation, Teacher
from ftkeras.tasks.incremental.grow import (
    alignment,
    copy_body,
    fit_bias,
    grow_logits,
    scale_new,
    to_cosine,
)


def test_old_columns_stay_and_new_ones_point_to_their_class():
    kernel = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32)
    bias = np.array([0.5, -0.5], np.float32)
    features = np.array([[4.0, 0, 1], [4, 0, 3], [0, 2, 0], [0, 4, 0]])  # means (4,0,2), (0,3,0)
    grown, offset = grow_logits(kernel, bias, features, np.array([2, 2, 3, 3]), 4)
    np.testing.assert_array_equal(grown[:, :2], kernel)
    np.testing.assert_array_equal(offset[:2], bias)
    away = np.array([2.0, -1.5, 1.0])  # half of the way between the means
    np.testing.assert_allclose(grown[:, 2], 2 * away / np.linalg.norm(away), rtol=1e-6)
    np.testing.assert_allclose(grown[:, 3], -grown[:, 2], rtol=1e-6)
    center = np.array([2.0, 1.5, 1.0])  # old logits there are 6.5 and 1.0
    np.testing.assert_allclose(center @ grown[:, 2:] + offset[2:], 3.75, rtol=1e-6)


def test_a_new_cosine_column_is_at_the_usual_angle_to_what_all_images_have_in_common():
    kernel = np.array([[3.0, -1.0, 0.0], [-1.0, 3.0, 0.5]], np.float32).T  # (3, 2)
    features = np.array([[2.0, 2.0, 5.0], [2.5, 1.5, 5.0], [4.0, 1.0, 2.0], [1.0, 4.0, 2.0]])
    labels = np.array([2, 2, 0, 1])
    grown, bias = grow_logits(kernel, np.zeros(2), features, labels, 3, cosine=True)
    assert bias.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(grown[:, :2], kernel)
    lengths = np.linalg.norm(grown, axis=0)
    assert lengths[2] == pytest.approx(lengths[:2].mean())
    center = np.mean([features[:2].mean(axis=0), features[2], features[3]], axis=0)
    cosines = center @ grown / lengths / np.linalg.norm(center)
    assert cosines[2] == pytest.approx(cosines[:2].mean())
    # So it wins on its own images, and not on those of the others.
    assert (features @ grown).argmax(axis=1).tolist() == labels.tolist()


def test_a_class_that_comes_alone_is_imprinted():
    kernel = np.array([[3.0, 0.0], [0.0, 5.0]], np.float32)
    features = np.array([[0.6, 0.8], [1.0, 0.0]])
    grown, _ = grow_logits(kernel, np.zeros(2), features, np.array([2, 2]), 3, cosine=True)
    expected = 4 * np.array([0.8, 0.4]) / np.hypot(0.8, 0.4)
    np.testing.assert_allclose(grown[:, 2], expected, rtol=1e-6)


def test_a_linear_head_becomes_one_of_cosines():
    equal, none = to_cosine(np.array([[3.0, 0.0], [0.0, 5.0]], np.float32), np.ones(2))
    assert equal.tolist() == [[4, 0], [0, 4]] and none.tolist() == [0, 0]


def test_alignment_and_scaling():
    layer = keras.layers.Dense(2)
    layer.build((None, 2))
    layer.set_weights([np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([1.0, 2.0])])
    scale_new(layer, 1, alignment(layer.get_weights()[0], 1), 0.25)
    kernel, bias = layer.get_weights()
    assert kernel.tolist() == [[3, 0], [0, 3]] and bias.tolist() == [1, 1.75]


def test_the_correction_is_the_likeliest():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 60, 12])
    logits = random.normal(0, 1, (132, 3)) + 2 * np.eye(3)[labels]
    logits[:, 2] = 2 * logits[:, 2] + 3  # the new class answers too loudly
    factor, offset = fit_bias(logits, labels, old=2)

    def loss(factor: float, offset: float) -> float:
        z = logits.copy()
        z[:, 2] = factor * z[:, 2] + offset
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        each = [-log_p[labels == c, c].mean() for c in range(3)]
        return np.mean(each) + 5e-4 * ((factor - 1) ** 2 + offset**2)

    best = loss(factor, offset)
    around = [(d, e) for d in (-0.01, 0, 0.01) for e in (-0.01, 0, 0.01) if d or e]
    assert all(loss(factor + d, offset + e) > best for d, e in around)
    assert offset < 0
    apart = fit_bias(np.array([[9.0, 0.0], [0.0, 9.0]]), np.array([0, 1]), old=1)
    assert np.isfinite(apart).all()


def small(classes: int, width: int = 3) -> keras.Model:
    images = keras.Input((2,))
    x = keras.layers.Dense(width, name="hidden")(images)
    return keras.Model(images, keras.layers.Dense(classes, name="logits")(x))


def test_all_but_the_logits_is_copied():
    old, new = small(2), small(4)
    last = new.get_layer("logits").get_weights()
    copy_body(old, new)
    for one, two in zip(
        old.get_layer("hidden").weights, new.get_layer("hidden").weights, strict=True
    ):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(new.get_layer("logits").get_weights()[0], last[0])
    with pytest.raises(UserError, match="has other layers"):
        copy_body(old, small(4, width=5))


def test_distillation_adds_the_softened_divergence_in_training_alone():
    teacher, student = small(2), small(3)
    held = Distillation(0.5, 2.0)([student.output, Teacher(teacher, "key")(student.input)])
    model = keras.Model(student.input, held)
    assert len(model.trainable_variables) == 4 and len(model.variables) == 4  # none of the teacher
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    p, q = (tf.nn.softmax(m(x)[:, :2] / 2).numpy() for m in (teacher, student))
    wanted = 0.5 * 4 * np.mean((p * np.log(p / q)).sum(axis=1))
    np.testing.assert_array_equal(model(x, training=True), student(x))
    np.testing.assert_allclose([float(loss) for loss in model.losses], [wanted], rtol=1e-4)
    model(x, training=False)
    assert not model.losses


def test_teachers_with_other_weights_are_told_apart():
    configs = [Teacher(small(2), key, name="teacher").get_config() for key in ("a", "b")]
    assert configs[0] != configs[1]
