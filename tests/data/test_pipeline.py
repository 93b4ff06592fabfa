from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data import preload
from ftkeras.data.dataset import Split
from ftkeras.inputs.base import PLAIN, View
from ftkeras.inputs.image.augment import STRENGTHS
from ftkeras.inputs.image.augment_layers import layers_augment
from ftkeras.inputs.image.decode import resize_image
from ftkeras.inputs.image.input import ImageInput
from ftkeras.runs.build import batches

COUNT = 22


@pytest.fixture
def split(photo) -> Split:
    """22 smooth pictures of differing sizes; the label is the number modulo 3."""
    sizes = [(20 + i, 40 - i) for i in range(COUNT)]
    pictures = tf.ragged.constant(
        [photo(h, w, seed=h).ravel().tolist() for h, w in sizes], tf.uint8
    )
    shapes = tf.constant([(h, w, 3) for h, w in sizes])

    def fetch(index: tf.Tensor) -> tf.Tensor:
        picture = tf.ensure_shape(tf.reshape(pictures[index], shapes[index]), (None, None, 3))
        return picture

    labels = np.arange(COUNT, dtype=np.int32) % 3
    return Split("train", [str(i) for i in range(COUNT)], labels, 3, fetch)


@pytest.fixture
def numbered() -> Split:
    """22 one-pixel pictures whose value is their number."""

    def fetch(index: tf.Tensor) -> tf.Tensor:
        return tf.ones((1, 1, 3), tf.uint8) * tf.cast(index, tf.uint8)

    labels = np.arange(COUNT, dtype=np.int32) % 3
    return Split("train", [str(i) for i in range(COUNT)], labels, 3, fetch)


def images(data: tf.data.Dataset) -> np.ndarray:
    return np.concatenate([batch[0] for batch in data.as_numpy_iterator()])


def numbers(data: tf.data.Dataset) -> list[int]:
    return images(data)[:, 0, 0, 0].astype(int).tolist()


SMALL = {"image_size": 16, "batch_size": 8}
ALL = {"strength": "strong", "mixup": 0.4, "cutmix": 1.0, "training": True}


def test_evaluation_comes_whole_in_order_and_plain(split):
    data = batches(split, **SMALL)
    assert int(data.cardinality()) == 3
    shapes = [tuple(part.shape for part in batch) for batch in data]
    assert shapes == [((8, 16, 16, 3), (8, 3))] * 2 + [((6, 16, 16, 3), (6, 3))]
    for i, image in enumerate(images(data)):
        expected = resize_image(split.fetch(tf.constant(i)), 16, "crop")
        np.testing.assert_array_equal(image, expected)
    labels = np.concatenate([batch[1] for batch in data])
    np.testing.assert_array_equal(labels, np.eye(3)[split.labels])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_seed_epoch_and_position_decide_the_pixels(split, strength):
    def of(**changed: int) -> np.ndarray:
        settings = {**ALL, "strength": strength, "seed": 1, "epoch": 2, **SMALL, **changed}
        return images(batches(split, **settings))

    first = of()
    np.testing.assert_array_equal(first, of())
    assert (first != of(epoch=3)).any() and (first != of(seed=2)).any()
    # A run that resumes within the epoch reads the same batches.
    np.testing.assert_array_equal(first[16:], of(start=16))


def test_every_epoch_brings_each_example_once(numbered):
    settings = {"image_size": 1, "batch_size": 5, "training": True}
    epochs = [numbers(batches(numbered, epoch=epoch, **settings)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT)) and epoch != sorted(epoch)
    assert epochs[0] != epochs[1] != epochs[2]
    dropped = batches(numbered, drop_remainder=True, **settings)
    assert int(dropped.cardinality()) == 4 and len(numbers(dropped)) == 20


def test_labels_stay_with_their_images(numbered):
    for batch in batches(numbered, image_size=1, batch_size=4, training=True, seed=9):
        np.testing.assert_array_equal(
            np.argmax(batch[1], axis=1), batch[0].numpy()[:, 0, 0, 0].astype(int) % 3
        )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("strength", ["none", "medium"])
def test_memory_changes_no_pixel(split, training, strength):
    settings = {**SMALL, "training": training, "strength": strength, "epoch": 1}
    slow = images(batches(split, cache="none", **settings))
    np.testing.assert_array_equal(images(batches(split, cache="memory", **settings)), slow)
    np.testing.assert_array_equal(images(batches(split, cache="auto", **settings)), slow)


def test_auto_keeps_in_memory_what_fits(split, monkeypatch):
    kind = ImageInput(16)
    monkeypatch.setattr(preload, "available_memory", lambda: 4 * COUNT * 16 * 16 * 3)
    kept = preload.keep_in_memory(split, kind, PLAIN, "auto")
    assert kept is not None and kept(tf.constant(7)).shape == (16, 16, 3)
    monkeypatch.setattr(preload, "available_memory", lambda: 4 * COUNT * 16 * 16 * 3 - 4)
    assert preload.keep_in_memory(split, kind, PLAIN, "auto") is None
    cropped = View(("medium",))  # needs whole images
    needed = sum(h * w * 3 for h, w in ((20 + i, 40 - i) for i in range(COUNT)))
    monkeypatch.setattr(preload, "available_memory", lambda: 3 * needed)
    assert preload.keep_in_memory(split, kind, cropped, "auto") is None
    monkeypatch.setattr(preload, "available_memory", lambda: 5 * needed)
    kept = preload.keep_in_memory(split, kind, cropped, "auto")
    np.testing.assert_array_equal(kept(tf.constant(7)), split.fetch(tf.constant(7)))


def test_weights_come_third(numbered):
    weighted = Split(**{**vars(numbered), "weights": np.arange(COUNT, dtype=np.float32)})
    for training in (False, True):
        for batch in batches(weighted, image_size=1, batch_size=4, training=training):
            np.testing.assert_array_equal(batch[2], batch[0].numpy()[:, 0, 0, 0])
    balanced = {"balance": "class_weights", "image_size": 1, "batch_size": COUNT}
    (batch,) = batches(numbered, training=True, **balanced)
    assert float(tf.reduce_mean(batch[2])) == pytest.approx(1.0)
    (batch,) = batches(numbered, **balanced)  # balancing is for training
    assert len(batch) == 2


def test_balanced_sampling(photo):
    labels = np.array([0] * 18 + [1] * 4, np.int32)
    split = Split(
        "train",
        list("x" * 22),
        labels,
        2,
        lambda i: tf.zeros((1, 1, 3), tf.uint8),
    )
    settings = {"image_size": 1, "batch_size": 22, "balance": "sampling"}
    (batch,) = batches(split, training=True, **settings)
    assert tf.reduce_sum(batch[1], axis=0).numpy().tolist() == [11, 11]
    (batch,) = batches(split, **settings)
    assert tf.reduce_sum(batch[1], axis=0).numpy().tolist() == [18, 4]


def test_several_labels(numbered):
    hot = (np.arange(COUNT)[:, None] & [1, 2, 4] > 0).astype(np.float32)
    split = Split(**{**vars(numbered), "labels": hot})
    for batch in batches(split, image_size=1, batch_size=8, training=True):
        values = batch[0].numpy()[:, 0, 0, 0].astype(int)
        np.testing.assert_array_equal(batch[1], hot[values])


def test_strength_may_be_a_variable(split):
    strength = tf.Variable(0)
    data = batches(split, **SMALL, training=True, strength=strength, cache="none")
    for number, name in enumerate(STRENGTHS):
        strength.assign(number)
        fixed = images(batches(split, **SMALL, training=True, strength=name))
        np.testing.assert_array_equal(images(data), fixed)


def test_layers_replace_a_strength(split):
    flip = layers_augment([("RandomFlip", {"mode": "horizontal"})], 16)
    plain = images(batches(split, **SMALL, training=True))
    flipped = images(batches(split, **SMALL, training=True, layers=flip, strength="strong"))
    turned = [not np.array_equal(a, b) for a, b in zip(flipped, plain, strict=True)]
    assert 0 < sum(turned) < COUNT
    for was, now, is_turned in zip(plain, flipped, turned, strict=True):
        np.testing.assert_allclose(now, was[:, ::-1] if is_turned else was, atol=1e-3)


class Watch(keras.callbacks.Callback):
    """Moves the variables as a training loop does, and counts batches."""

    def __init__(self, epoch: tf.Variable, start: tf.Variable | None = None):
        super().__init__()
        self.epoch, self.start, self.counts = epoch, start, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch.assign(epoch)
        if self.start is not None and self.counts:
            self.start.assign(0)
        self.counts.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.counts[-1] += 1


def small_model(strategy: tf.distribute.Strategy) -> keras.Model:
    with strategy.scope():
        image = keras.Input((1, 1, 3))
        model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
        model.compile(keras.optimizers.SGD(1e-9), "mse")
    return model


def test_one_data_set_serves_all_epochs_of_a_fit(numbered):
    epoch = tf.Variable(0, dtype=tf.int64)
    data = batches(numbered, image_size=1, batch_size=6, training=True, epoch=epoch)
    watch = Watch(epoch)
    model = small_model(tf.distribute.get_strategy())
    model.fit(data, epochs=3, verbose=0, shuffle=False, callbacks=[watch])
    assert watch.counts == [4, 4, 4]


@pytest.mark.parametrize("distributed", [False, True])
def test_a_resumed_epoch_is_shorter_and_the_next_are_whole(numbered, distributed, two_replicas):
    strategy = two_replicas if distributed else tf.distribute.get_strategy()
    epoch, start = tf.Variable(1, dtype=tf.int64), tf.Variable(12, dtype=tf.int64)
    data = batches(numbered, image_size=1, batch_size=6, training=True, epoch=epoch, start=start)
    watch = Watch(epoch, start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns that the first epoch runs out of data
        small_model(strategy).fit(
            data, initial_epoch=1, epochs=4, verbose=0, shuffle=False, callbacks=[watch]
        )
    assert watch.counts == [2, 4, 4]


def test_an_epoch_is_read_when_iteration_begins(numbered):
    epoch = tf.Variable(4, dtype=tf.int64)
    settings = {"image_size": 1, "batch_size": 2, "training": True}
    data = batches(numbered, epoch=epoch, **settings)
    iterator = iter(data)
    first = [next(iterator)[0]]
    epoch.assign(5)  # while an epoch is under way: it stays the epoch that it is
    first += [batch[0] for batch in iterator]
    seen = np.concatenate(first)[:, 0, 0, 0].astype(int).tolist()
    assert seen == numbers(batches(numbered, epoch=4, **settings))
    assert numbers(data) == numbers(batches(numbered, epoch=5, **settings))
