"""Weights between models: closed forms, batch normalisation, and the probe that is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.config.schema import CheckpointConfig
from ftkeras.data.feed import Feed
from ftkeras.inputs.image.input import ImageInput
from ftkeras.phases import Phase
from ftkeras.phases.blend import Blender, blend, weights_of_model
from ftkeras.phases.recalibrate import recalibrate_batch_norm
from ftkeras.run import Run
from ftkeras.tasks.robust_weights.soups import KeepProbe, greedy
from ftkeras.training.fit import fit
from ftkeras.training.resume.checkpoint import Checkpoints
from ftkeras.training.resume.phases import ResumableUnfreezing
from ftkeras.training.resume.saving import Guards


def test_a_blend_is_a_weighted_sum():
    models = [
        [np.array([0.0, 8.0], np.float32), np.array([1], np.uint32)],
        [np.array([4.0, 0.0], np.float32), np.array([7], np.uint32)],
    ]
    floats, whole = blend(models, [0.75, 0.25])
    assert floats.tolist() == [1.0, 6.0]
    assert floats.dtype == np.float32
    assert whole.tolist() == [7]  # a seed is not averaged


def test_a_share_of_one_gives_a_model_to_the_bit():
    random = np.random.default_rng(0)
    one, other = [[random.normal(size=5).astype(np.float32)] for _ in range(2)]
    assert np.array_equal(blend([one, other], [0.0, 1.0])[0], other[0])
    assert np.array_equal(blend([[np.array([np.nan])], [np.array([2.0])]], [0.0, 1.0])[0], [2.0])


def test_a_greedy_soup_keeps_what_does_no_harm():
    values = {(1,): 0.8, (1, 2): 0.8, (1, 0): 0.7, (1, 2, 0): 0.75, (1, 2, 3): 0.85}
    asked: list[tuple[int, ...]] = []

    def score_of(kept: Any) -> float:
        asked.append(tuple(kept))
        return values[tuple(kept)]

    assert greedy([0.6, 0.8, 0.7, 0.5], score_of) == [1, 2, 3]
    assert asked == [(1, 2), (1, 2, 0), (1, 2, 3)]  # from the best on


def small_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, name="logits"),
        ]
    )


def test_statistics_that_differ_are_estimated_anew():
    model, random = small_model(), np.random.default_rng(0)
    images = tf.data.Dataset.from_tensor_slices(
        random.normal(3, 2, (12, 8, 8, 3)).astype(np.float32)
    ).batch(4)
    first = weights_of_model(model)
    changed = [value + 1 for value in first]
    blender = Blender(model, [first, changed], images)
    assert blender.recalibrates
    blender.put([0.5, 0.5])
    found = model.get_layer("norm").moving_mean.numpy()
    conv = model.get_layer("conv").kernel.numpy()
    np.testing.assert_allclose(conv, first[0] + 0.5, rtol=1e-6)
    recalibrate_batch_norm(model, images)
    np.testing.assert_allclose(found, model.get_layer("norm").moving_mean.numpy(), rtol=1e-6)
    assert not np.allclose(found, 0.5)  # the mean of the statistics
    blender.put([0.0, 1.0])  # a model as it is keeps its own
    np.testing.assert_array_equal(model.get_layer("norm").moving_mean.numpy(), np.ones(4))


def test_statistics_that_are_the_same_stay():
    model = small_model()
    first = weights_of_model(model)
    names = [v.path.rsplit("/", 1)[-1] for v in model.weights]
    same = [v if n.startswith("moving") else v + 1 for n, v in zip(names, first, strict=True)]
    blender = Blender(model, [first, same], tf.data.Dataset.range(0))
    assert not blender.recalibrates
    blender.put([0.5, 0.5])
    np.testing.assert_array_equal(model.get_layer("norm").moving_variance.numpy(), np.ones(4))


class Stop(keras.callbacks.Callback):
    """Notes the weights at the end of each epoch, and may break off after some steps."""

    def __init__(self, steps: int = 0):
        super().__init__()
        self.left, self.epochs = steps, []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(weights_of_model(self.model))


@pytest.mark.slow
def test_the_probe_is_what_the_first_phase_leaves_also_in_a_run_that_goes_on(
    small_images, tmp_path
):
    def train(folder: Path, stop: Stop) -> KeepProbe:
        keras.utils.set_random_seed(0)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        feed, model = Feed(small_images, ImageInput(8), batch_size=8), small_model()
        model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
        phases = [Phase("head", 2, 1e-2), Phase("all", 2, 1e-2, train=["all"])]
        unfreeze = ResumableUnfreezing(model, phases, steps_per_epoch=feed.steps_per_epoch)
        keeper, run = KeepProbe(model, unfreeze), Run(str(folder))
        fit(
            model,
            feed,
            unfreeze=unfreeze,
            checkpoints=Checkpoints(model, run, "loss"),
            guards=Guards(CheckpointConfig(every_steps=1)),
            callbacks=[keeper, stop],
        )
        return keeper

    stop = Stop()
    whole = train(tmp_path / "whole", stop)
    assert whole.weights is not None
    for kept, seen in zip(whole.weights, stop.epochs[1], strict=True):
        np.testing.assert_array_equal(kept, seen)
    assert not np.array_equal(whole.weights[0], stop.epochs[2][0])  # the convolution has moved
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", Stop(steps=13))  # of 20: in the second phase
    parts = train(tmp_path / "parts", Stop())
    assert parts.weights is not None
    for one, two in zip(whole.weights, parts.weights, strict=True):
        np.testing.assert_array_equal(one, two)
