from __future__ import annotations

import builtins
from collections.abc import Iterable

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.augment_layers import layers_augment
from ftkeras.errors import UserError

KERAS = {
    "RandomFlip": {},
    "RandomRotation": {"factor": 0.1},
    "RandomErasing": {"factor": 1.0},
    "RandomColorJitter": {"brightness_factor": 0.3, "hue_factor": 0.2},
    "RandomElasticTransform": {"factor": 1.0},
    "RandomGaussianBlur": {"factor": 1.0},
    "RandomPerspective": {"factor": 1.0},
}
KERAS_CV = {
    "GridMask": {},
    "ChannelShuffle": {},
    "RandomCutout": {"height_factor": 0.5, "width_factor": 0.5},
    "RandomChannelShift": {"value_range": (0, 255), "factor": 0.5},
    "RandomHue": {"factor": 0.5, "value_range": (0, 255)},
}


@pytest.fixture
def image(photo) -> tf.Tensor:
    return tf.constant(photo(32, 32).astype(np.float32))


def results(
    augment, image: tf.Tensor, keys: Iterable[int], parallel: int | None = None
) -> list[np.ndarray]:
    numbers = tf.data.Dataset.from_tensor_slices(tf.cast(list(keys), tf.int32))
    images = numbers.map(lambda i: augment(image, tf.stack([3, i])), num_parallel_calls=parallel)
    return list(images.as_numpy_iterator())


def check(name: str, arguments: dict, image: tf.Tensor) -> None:
    """The key decides, and nothing else: neither order, nor threads, nor the layer's own seed."""
    first = results(layers_augment([(name, arguments)], 32), image, range(12))
    assert len({i.tobytes() for i in first}) > 1, "keys make no difference"
    other = layers_augment([(name, arguments)], 32)
    keys = [*range(5), *range(11, -1, -1)]  # in other calls, backwards, and at the same time
    backwards = results(other, image, keys, parallel=4)[:4:-1]
    np.testing.assert_array_equal(first, backwards)
    for changed in first:
        assert changed.shape == (32, 32, 3) and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 255


@pytest.mark.parametrize("name", KERAS)
def test_keras_layers_follow_their_key(name, image):
    check(name, KERAS[name], image)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RandAugment", "AugMix"])
def test_layers_of_layers_follow_their_key(name, image):
    check(name, {}, image)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # keras-cv and what it imports warn of their own
@pytest.mark.parametrize("name", KERAS_CV)
def test_keras_cv_layers_follow_their_key(name, image):
    pytest.importorskip("keras_cv")
    check(f"keras_cv/{name}", KERAS_CV[name], image)


@pytest.mark.slow
def test_rand_augment_applies_its_operations_and_leaves_nothing_else(image):
    # At factor 0 most operations do nothing; what remains is known: exact copies must come out.
    gentle = layers_augment([("RandAugment", {"num_ops": 1, "factor": 0.0})], 32)
    gentle_results = results(gentle, image, range(30))
    wild = results(
        layers_augment([("RandAugment", {"num_ops": 3, "factor": 1.0})], 32), image, range(30)
    )

    def distance(images: list[np.ndarray]) -> float:
        return float(np.abs(np.array(images) - image.numpy()).mean())

    assert distance(gentle_results) < distance(wild) / 2


def test_layers_are_applied_in_order(image):
    arguments = {"threshold_factor": 0.0, "addition_factor": 0.0, "value_range": (0, 255)}
    (inverted,) = results(layers_augment([("Solarization", arguments)], 32), image, range(1))
    np.testing.assert_allclose(inverted, 255 - image.numpy(), atol=1e-3)
    twice = layers_augment([("Solarization", arguments)] * 2, 32)
    np.testing.assert_allclose(results(twice, image, range(1))[0], image, atol=1e-3)


def test_layers_compute_in_full_precision_under_a_mixed_policy(image):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        augment = layers_augment([("RandomFlip", {})], 32)
    finally:
        keras.config.set_dtype_policy("float32")
    for changed in results(augment, image, range(4)):
        assert np.array_equal(changed, image) or (changed != image.numpy()).any()
        assert set(changed.ravel()) <= set(image.numpy().ravel())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("RandomFlop", {}, "no layer 'RandomFlop'. Did you mean 'RandomFlip'"),
        ("Dense", {}, "no layer 'Dense'"),
        ("torchvision/Flip", {}, "not a name of keras.layers or keras_cv/NAME"),
        ("CutMix", {}, "it mixes images: see data.mix"),
        ("CenterCrop", {}, "data.image_size and data.resize do it"),
        ("RandomRotation", {"factor": "much"}, "RandomRotation refuses its args"),
        ("RandomRotation", {"faktor": 0.1}, "RandomRotation refuses its args"),
        ("RandomRotation", {"factor": 0.1, "fill_mode": "odd"}, "RandomRotation refuses its args"),
    ],
)
def test_wrong_layers(name, arguments, message):
    with pytest.raises(UserError, match=message):
        layers_augment([(name, arguments)], 32)


def test_a_layer_with_randomness_of_its_own_is_refused(monkeypatch):
    class RandomNoise(keras.layers.RandomFlip.__mro__[1]):
        _USE_BASE_FACTOR = False

        def call(self, image, training=True):
            return image + tf.raw_ops.RandomUniform(shape=tf.shape(image), dtype=tf.float32)

    monkeypatch.setattr(keras.layers, "RandomNoise", RandomNoise, raising=False)
    with pytest.raises(
        UserError, match="RandomNoise draws random numbers of its own .RandomUniform"
    ):
        layers_augment([("RandomNoise", {})], 32)


def test_without_keras_cv_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("keras_cv"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'pip install "ftkeras\[cv\]"'):
        layers_augment([("keras_cv/GridMask", {})], 32)
