from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.inputs.image import augment
from ftkeras.inputs.image.augment import STRENGTHS, Strength


@pytest.fixture
def image(photo) -> tf.Tensor:
    return tf.constant(photo(32, 32).astype(np.float32))


def applied(image: tf.Tensor, strength: Strength, count: int = 24) -> list[np.ndarray]:
    one = tf.function(lambda seed: augment.augment_image(image, seed, strength))
    return [one(tf.constant([5, i])).numpy() for i in range(count)]


def test_none_changes_nothing(image):
    for changed in applied(image, STRENGTHS["none"], 3):
        np.testing.assert_array_equal(changed, image)


def test_light_flips_half_of_the_images_and_no_more(image):
    flipped = [np.array_equal(i, image[:, ::-1]) for i in applied(image, STRENGTHS["light"], 60)]
    same = [np.array_equal(i, image) for i in applied(image, STRENGTHS["light"], 60)]
    assert all(a != b for a, b in zip(flipped, same, strict=True))
    assert 18 <= sum(flipped) <= 42


@pytest.mark.parametrize("name", ["medium", "strong"])
def test_the_seed_decides_and_pixels_stay_in_range(image, name):
    first, again = applied(image, STRENGTHS[name]), applied(image, STRENGTHS[name])
    np.testing.assert_array_equal(first, again)
    assert len({i.tobytes() for i in first}) == len(first)
    assert min(i.min() for i in first) >= 0 and max(i.max() for i in first) <= 255


def test_strengths_grow():
    rows = list(STRENGTHS.values())
    assert [row.scale for row in rows] == sorted((row.scale for row in rows), reverse=True)
    for field in ("flip", "jitter", "hue", "rotate", "erase"):
        values = [getattr(row, field) for row in rows]
        assert values == sorted(values)


def test_jitter_in_closed_form():
    image = tf.constant([[[100.0, 100, 100], [50, 50, 50]]])
    one = tf.constant(1.0)
    brighter = augment.jitter(image, tf.constant(1.5), one, one)
    np.testing.assert_allclose(brighter[0, :, 0], [150, 75], rtol=1e-3)
    flat = augment.jitter(image, one, tf.constant(0.0), one)
    np.testing.assert_allclose(flat[0, :, 0], [75, 75], rtol=1e-3)
    red = tf.constant([[[200.0, 0, 0]]])
    grey = augment.jitter(red, one, one, tf.constant(0.0))
    np.testing.assert_allclose(grey[0, 0], [200 * 0.2989] * 3, rtol=1e-3)


def test_a_quarter_turn_is_exact(image):
    np.testing.assert_allclose(augment.rotate(image, tf.constant(90.0)), np.rot90(image), atol=0.1)
    np.testing.assert_allclose(augment.rotate(image, tf.constant(0.0)), image, atol=1e-3)


def test_erasing_blanks_one_rectangle():
    image = tf.zeros((40, 40, 3))
    for i in range(10):
        blank = augment.erase(image, tf.constant([0, i])).numpy()[..., 0] == 127.0
        rows, columns = blank.any(axis=1).sum(), blank.any(axis=0).sum()
        assert blank.sum() == rows * columns
        assert 0.01 < blank.mean() < 0.36
