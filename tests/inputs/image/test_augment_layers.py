from __future__ import annotations

import builtins
from collections.abc import Iterable

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.inputs.image.augment_layers import JITTERS, OPERATIONS, layer_augment, layers_augment

SIZE = 16
DETERMINISTIC = {"AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "Equalization"}
ARGUMENTS = {  # those without which a layer cannot be made, or does the same to every image
    "RandomBrightness": {"factor": 0.3},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomColorJitter": {"brightness_factor": 0.3, "hue_factor": 0.2},
    "RandomContrast": {"factor": 0.3},
    "RandomHue": {"factor": 0.5},
    "RandomInvert": {"factor": 0.5},
    "RandomPosterization": {"factor": [1, 7]},
    "RandomRotation": {"factor": 0.1},
    "RandomSaturation": {"factor": 0.5},
    "RandomSharpness": {"factor": 0.5},
    "RandomShear": {"x_factor": 0.3},
    "RandomGaussianBlur": {"factor": 0.5, "sigma": [0.1, 2.0]},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.3},
    "Solarization": {"threshold_factor": 0.5},
}
OTHERS = {"CenterCrop", "CutMix", "MaxNumBoundingBoxes", "MixUp", "RandomCrop", "Resizing"}
KERAS = sorted(
    name
    for name, kind in vars(keras.layers).items()
    if hasattr(kind, "get_random_transformation") and name not in OTHERS
)
KERAS_CV = {
    "GridMask": {},
    "RandomHue": {"factor": 0.5, "value_range": (0, 255)},
    "RandAugment": {"value_range": (0, 255)},
}


@pytest.fixture
def image(photo) -> tf.Tensor:
    return tf.constant(photo(SIZE, SIZE).astype(np.float32))


def results(
    augment, image: tf.Tensor, keys: Iterable[int], parallel: int | None = None
) -> list[np.ndarray]:
    numbers = tf.data.Dataset.from_tensor_slices(tf.cast(list(keys), tf.int32))
    images = numbers.map(lambda i: augment(image, tf.stack([3, i])), num_parallel_calls=parallel)
    return list(images.as_numpy_iterator())


def of_layers(
    image: tf.Tensor, keys: int, *specs: tuple[str, dict], size: int = SIZE
) -> list[np.ndarray]:
    return results(layers_augment(specs, size), image, range(keys))


@pytest.mark.parametrize("name", KERAS)
def test_keras_layers_follow_their_key(name, image):
    """The key decides, and nothing else: no order, no thread, no random state of the process."""
    specs = [(name, ARGUMENTS.get(name, {}))]
    augment = layers_augment(specs, SIZE)
    assert not augment.unseeded and not augment.notes
    first = results(augment, image, range(10))
    expected = 1 if name in DETERMINISTIC else 2
    assert min(len({i.tobytes() for i in first}), 2) == expected
    for changed in first:
        assert changed.shape == (SIZE, SIZE, 3) and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 255
    keras.utils.set_random_seed(len(name))  # as another process would have it
    other = layers_augment(specs, SIZE)
    keys = [*range(5), *range(9, -1, -1)]  # in other calls, backwards, and at the same time
    np.testing.assert_array_equal(first, results(other, image, keys, parallel=4)[:4:-1])


def layers_within(layer: keras.layers.Layer) -> list[str]:
    return [name for name, value in vars(layer).items() if isinstance(value, keras.layers.Layer)]


def test_composed_layers_have_all_the_parts_of_keras():
    assert set(layers_within(keras.layers.RandAugment())) == set(OPERATIONS)
    assert set(layers_within(keras.layers.AugMix())) == set(OPERATIONS)
    assert set(layers_within(keras.layers.AugMix(all_ops=False))) == set(OPERATIONS[:7])
    factors = {f"{name.removeprefix('random_')}_factor": 0.5 for name in JITTERS}
    assert layers_within(keras.layers.RandomColorJitter(**factors)) == list(JITTERS)


def changed_at_factor_0(image: tf.Tensor) -> dict[str, np.ndarray]:
    """What Keras's own operations make of an image at factor 0; six of eleven do nothing."""
    layers = keras.layers
    operations = {
        "solarization": layers.Solarization(),
        "random_posterization": layers.RandomPosterization([1, 1]),
        "auto_contrast": layers.AutoContrast(),
        "equalization": layers.Equalization(),
        "random_sharpness": layers.RandomSharpness(0.0),
    }
    changed = {name: np.array(layer(image)) for name, layer in operations.items()}
    return {"nothing": image.numpy(), **changed}


def test_rand_augment_draws_each_operation_equally_often(image):
    factor = {"num_ops": 1, "factor": 0.0}
    changed = of_layers(image, 330, ("RandAugment", factor))
    known = changed_at_factor_0(image)
    counts = dict.fromkeys(known, 0)
    for result in changed:
        (which,) = (name for name, it in known.items() if np.allclose(it, result, atol=1e-2))
        counts[which] += 1
    assert 150 <= counts.pop("nothing") <= 210  # 6 of 11: 180, and three standard deviations
    assert all(14 <= count <= 46 for count in counts.values()), counts  # 1 of 11: 30


def test_rand_augment_has_the_strength_that_its_factor_names(image):
    full = {"num_ops": 1, "factor": [1.0, 1.0]}
    changed = of_layers(image, 60, ("RandAugment", full))
    grey = np.array(keras.layers.RandomColorDegeneration((1.0, 1.0))(image))
    assert any(np.allclose(result, 255.0) for result in changed)  # brightness + 255
    assert any(np.allclose(result, grey, atol=1e-2) for result in changed)


def test_aug_mix_blends_the_image_with_its_operations(image):
    none = {"chain_depth": 0, "value_range": [0, 255]}
    np.testing.assert_allclose(of_layers(image, 1, ("AugMix", none))[0], image, atol=1e-3)
    one = {"num_chains": 1, "chain_depth": 1, "factor": 0.0, "all_ops": False}
    changed = of_layers(image, 60, ("AugMix", one))
    known = changed_at_factor_0(image)
    del known["random_sharpness"], known["nothing"]  # the first is not among those of `all_ops`
    shares: dict[str, list[float]] = {name: [] for name in known}
    for result in changed:
        step = result - image.numpy()
        for name, full in known.items():
            towards = full - image.numpy()
            share = float((step * towards).sum() / (towards**2).sum())
            if share > 1e-3 and np.allclose(step, share * towards, atol=0.05):
                shares[name].append(share)
    assert all(shares.values()), shares
    assert 20 <= sum(map(len, shares.values())) <= 44  # 4 of 8 change something: 30
    assert all(0 < share <= 1 for each in shares.values() for share in each)


def test_color_jitter_has_the_order_of_keras(image):
    factors = {"brightness_factor": [0.3, 0.3], "saturation_factor": [0.0, 0.0]}
    brighter = np.array(keras.layers.RandomBrightness([0.3, 0.3])(image))
    for changed in of_layers(image, 3, ("RandomColorJitter", factors)):
        grey = brighter.max(axis=-1, keepdims=True)  # saturation 0 leaves the greatest channel
        np.testing.assert_allclose(changed, np.broadcast_to(grey, changed.shape), atol=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # keras-cv and what it imports warn of their own
@pytest.mark.parametrize("name", KERAS_CV)
def test_keras_cv_layers_are_called_as_they_are(name, image):
    pytest.importorskip("keras_cv")
    spec = (f"keras_cv/{name}", KERAS_CV[name])
    augment = layers_augment([spec, ("RandomFlip", {}), spec], SIZE)
    changed = results(augment, image, [1] * 12, parallel=2)
    assert len({i.tobytes() for i in changed}) > 2, "it draws one number for all images"
    assert augment.unseeded == (spec[0],)
    assert f"{spec[0]} takes no seed" in augment.notes[0]


def test_a_layer_without_a_seed_is_refused_if_all_must_repeat():
    with pytest.raises(UserError, match="GridMask takes no seed, so training cannot be determ"):
        layers_augment([("keras_cv/GridMask", {})], SIZE, repeatable=True)
    layers_augment([("RandomFlip", {})], SIZE, repeatable=True)


class Brighter(keras.layers.RandomBrightness):
    """Works like its base: the seed comes through the method that it inherits."""

    def build(self, input_shape):
        self.share = self.add_weight((), initializer="ones", name="share")

    def transform_images(self, images, transformation, training=True):
        return super().transform_images(images * self.share, transformation, training)


class Forgetful(keras.layers.RandomBrightness):
    """Ignores the seed that it gets."""

    def get_random_transformation(self, data, training=True, seed=None):
        return super().get_random_transformation(data, training)


class OwnCall(keras.layers.RandomBrightness):
    """Does in `call` what its base does elsewhere."""

    def call(self, data, training=True):
        return data + keras.random.uniform((), 0.0, 20.0, seed=self.generator)


class Noise(keras.layers.Layer):
    """No image preprocessing layer of Keras."""

    def call(self, image, training=False):
        return image + tf.random.uniform(image.shape, maxval=20.0) if training else image


@pytest.mark.parametrize(
    ("kind", "seeded"), [(Brighter, True), (Forgetful, False), (OwnCall, False), (Noise, False)]
)
def test_a_layer_of_ones_own_follows_the_key_if_it_takes_the_seed(kind, seeded, image):
    layer = kind() if kind is Noise else kind(0.3)
    augment, is_seeded = layer_augment("Own", layer, SIZE)
    assert is_seeded == seeded
    changed = results(augment, image, [1, 2, 3, 1, 2, 3])
    assert len({i.tobytes() for i in changed}) == (3 if seeded else 6)
    assert all((i != image.numpy()).any() for i in changed)


def test_layers_are_applied_in_order(image):
    inverted = ("Solarization", {"value_range": (0, 255)})
    np.testing.assert_allclose(of_layers(image, 1, inverted)[0], 255 - image.numpy(), atol=1e-3)
    np.testing.assert_allclose(of_layers(image, 1, inverted, inverted)[0], image, atol=1e-3)


def test_layers_compute_in_full_precision_under_a_mixed_policy(image):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        augment = layers_augment([("RandomFlip", {})], SIZE)
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
        ("CutMix", {}, "it mixes images: see data.input.mix"),
        ("CenterCrop", {}, "data.input.size and data.input.resize do it"),
        ("RandomRotation", {"factor": "much"}, "RandomRotation refuses its args"),
        ("RandomRotation", {"faktor": 0.1}, "RandomRotation refuses its args"),
        ("RandomRotation", {"factor": 0.1, "fill_mode": "odd"}, "RandomRotation refuses its args"),
    ],
)
def test_wrong_layers(name, arguments, message):
    with pytest.raises(UserError, match=message):
        layers_augment([(name, arguments)], 32)


def test_without_keras_cv_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("keras_cv"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install keras-cv"):
        layers_augment([("keras_cv/GridMask", {})], 32)
