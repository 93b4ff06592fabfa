"""A few corrupted images, held in memory."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.load import load_data
from ftkeras.errors import UserError
from ftkeras.inputs.image.corruptions import corrupt
from ftkeras.inputs.image.decode import whole
from ftkeras.inputs.image.input import ImageInput
from ftkeras.tasks.robust_weights.corrupted import (
    CorruptedSample,
    check_corruptions,
    corrupted_sample,
)


def test_accuracy_is_the_share_of_right_answers_by_corruption():
    bright = np.full((60, 2, 2, 3), 200, np.uint8)
    dark = np.concatenate([bright[:15], bright[15:] // 8])
    found = CorruptedSample({"bright": bright, "dark": dark}, np.ones(60, int))

    def answer(images: tf.Tensor) -> tf.Tensor:  # class 1 is bright
        level = tf.reduce_mean(images, axis=(1, 2, 3))
        return tf.stack([100 - level, level - 100], axis=1)

    assert found.accuracies(answer) == {"bright": 1.0, "dark": 0.25}


def test_images_follow_from_the_seed_and_are_those_of_the_split():
    split = load_data("starter").splits["test"]
    options = {"examples": 3, "kind": ImageInput(32)}
    names = ["gaussian_noise", "contrast"]
    one, again, other = (
        corrupted_sample(split, names, 3, seed=seed, **options) for seed in (0, 0, 1)
    )
    assert list(one.inputs) == names
    assert one.inputs["contrast"].shape == (3, 32, 32, 3)
    assert np.array_equal(one.inputs["gaussian_noise"], again.inputs["gaussian_noise"])
    assert not np.array_equal(one.inputs["gaussian_noise"], other.inputs["gaussian_noise"])
    place = int(np.sort(np.random.default_rng(0).permutation(len(split))[:3])[0])
    assert one.labels[0] == split.labels[place]
    image = tf.image.resize(whole(split.fetch(tf.constant(place, tf.int64))), (32, 32))
    expected = corrupt(tf.cast(image, tf.uint8).numpy(), "contrast", 3, seed=0)
    assert np.abs(one.inputs["contrast"][0].astype(int) - expected).max() <= 2


def test_what_cannot_be_corrupted_is_said(monkeypatch):
    with pytest.raises(UserError, match="no corruption 'fogg'. Did you mean 'fog'"):
        check_corruptions(["fogg"], ImageInput(64), "x")
    with pytest.raises(UserError, match="at least 32 px"):
        check_corruptions(["fog"], ImageInput(31), "x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install imagecorruptions-imaug"):
        check_corruptions(["fog"], ImageInput(64), "x")
