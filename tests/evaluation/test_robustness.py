"""The robustness suite, on models whose answers are known beforehand."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.errors import UserError
from ftkeras.evaluation.robustness import format_robustness, measure_robustness, sample
from ftkeras.inputs.image.corruptions import CORRUPTIONS, SHIFTS
from ftkeras.inputs.image.input import ImageInput


def mean_colour_model(size: int = 32) -> keras.Model:
    """Returns a model whose logits are the image's mean red, green and blue."""
    image = keras.Input((size, size, 3))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))


def one_colour_images(count: int = 6) -> Split:
    """Images of red, green, blue, red, ..., each labelled as it is."""
    images = np.zeros((count, 32, 32, 3), np.uint8)
    for i in range(count):
        images[i, ..., i % 3] = 100 + i
    return Split(
        name="test",
        ids=[f"{i}.png" for i in range(count)],
        labels=np.arange(count, dtype=np.int32) % 3,
        classes=3,
        fetch=lambda index: tf.gather(tf.constant(images), index),
        columns={"number": np.arange(count).astype(str)},
        files=[f"/photos/{i}.png" for i in range(count)],
    )


@pytest.fixture(scope="module")
def results():
    return measure_robustness(
        mean_colour_model(), one_colour_images(), ImageInput(32), batch_size=4
    )


def test_what_the_model_cannot_be_fooled_by_costs_nothing(results):
    assert (results["clean"], results["examples"]) == (1.0, 6)
    assert list(results["corruptions"]) == list(CORRUPTIONS)
    for name in ("defocus_blur", "contrast", "pixelate", "jpeg_compression", "zoom_blur"):
        assert results["corruptions"][name] == [1.0] * 5, name
    # Grey has equal logits, of which the first class is answered.
    assert results["shifts"] == {name: 1 / 3 if name == "grey" else 1.0 for name in SHIFTS}


def test_means_and_strict_json(results):
    mean = np.mean(list(results["corruptions"].values()))
    assert results["mean_corruption_accuracy"] == pytest.approx(mean)
    assert results["relative"] == pytest.approx(mean)
    low, high = results["intervals"]["mean_corruption_accuracy"]
    assert low <= mean <= high
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    lines = format_robustness(results).splitlines()
    assert lines[0] == "6 images"
    assert lines[1] == "clean accuracy 1.000 (95% interval 1.000 to 1.000)"
    assert any(line.split() == ["contrast", *["1.000"] * 6] for line in lines)


def test_the_result_does_not_depend_on_the_batches():
    # The mean of an image plus noise is near a tie, so that its seed decides.
    images = np.full((5, 32, 32, 3), 128, np.uint8)
    split = Split(
        name="test",
        ids=list("abcde"),
        labels=np.arange(5, dtype=np.int32) % 3,
        classes=3,
        fetch=lambda index: tf.gather(tf.constant(images), index),
    )
    first, second = (
        measure_robustness(mean_colour_model(), split, ImageInput(32), batch_size=size, seed=3)
        for size in (5, 2)
    )
    assert first == second
    assert len({tuple(levels) for levels in first["corruptions"].values()}) > 3


def test_a_sample_is_of_the_same_examples_in_order():
    whole = one_colour_images(30)
    part = sample(whole, 7, seed=0)
    places = [int(name.removesuffix(".png")) for name in part.ids]
    assert places == sorted(set(places)) and len(part) == 7
    assert part.labels.tolist() == [place % 3 for place in places]
    assert [int(part.fetch(i)[0, 0].numpy().max()) - 100 for i in range(7)] == places
    assert part.columns["number"].tolist() == [str(place) for place in places]
    assert part.files == [f"/photos/{place}.png" for place in places]
    assert sample(whole, 7, seed=0).ids == part.ids != sample(whole, 7, seed=1).ids
    assert sample(whole, None, seed=0) is whole and sample(whole, 30, seed=0) is whole


def test_too_small_images_are_refused():
    with pytest.raises(UserError, match="at least 32 px, and the model's have 16"):
        measure_robustness(mean_colour_model(16), one_colour_images(), ImageInput(16), batch_size=4)
