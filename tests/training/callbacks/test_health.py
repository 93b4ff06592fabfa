"""Gradient norms of groups, and the warnings about sick ones."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.phases import Phase
from ftkeras.run import Run
from ftkeras.training.callbacks.health import GroupHealth
from ftkeras.training.resume.phases import ResumableUnfreezing

INPUTS = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
TARGETS = INPUTS.sum(axis=1, keepdims=True)


def model(bias: float = 0.0) -> keras.Model:
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(3, activation="relu", name="body"),
        keras.layers.Dense(1, name="head"),
    ]
    net = keras.Sequential(layers)
    net.get_layer("body").bias.assign([bias] * 3)
    net.compile(keras.optimizers.SGD(), "mse", jit_compile=False)
    return net


def fit(net: keras.Model, tmp_path, targets=TARGETS, epochs: int = 2) -> list[str]:
    unfreeze = ResumableUnfreezing(net, [Phase("all", epochs, 1e-6, train=["all"])])
    said: list[str] = []
    health = GroupHealth(Run(str(tmp_path)), unfreeze, report=said.append)
    net.fit(INPUTS, targets, epochs=epochs, batch_size=8, callbacks=[unfreeze, health], verbose=0)
    return said


def test_norms_are_those_of_the_gradients():
    net = model()
    unfreeze = ResumableUnfreezing(net, [Phase("all", 1, 1e-9, train=["all"])])
    net.fit(INPUTS, TARGETS, epochs=1, batch_size=8, callbacks=[unfreeze], verbose=0)
    norms = unfreeze.optimizer.gradient_norms()
    hidden = np.maximum(INPUTS @ net.get_layer("body").kernel.numpy(), 0)
    error = 2 * (hidden @ net.get_layer("head").kernel.numpy() - TARGETS) / 8
    expected = np.sqrt(((hidden.T @ error) ** 2).sum() + (error.sum(axis=0) ** 2).sum())
    assert norms["head"] == pytest.approx(expected, rel=1e-4)
    assert unfreeze.optimizer.gradient_norms() == {}


def test_a_dead_group_is_named_once(tmp_path):
    said = fit(model(bias=-1e6), tmp_path)
    assert len(said) == 1
    assert "gradients of body (0) vanish" in said[0]


def test_gradients_that_are_not_finite_are_named(tmp_path):
    said = fit(model(), tmp_path, targets=TARGETS * np.inf, epochs=1)
    assert {line.split("gradients of ")[1].split()[0] for line in said} == {"body", "head"}
    assert "explode" in said[0]


def recurrent(scale: float) -> keras.Model:
    """Returns a recurrent layer whose state grows by `scale` from step to step, and a head."""
    keras.utils.set_random_seed(0)
    start = keras.initializers.Identity(scale)
    rnn = keras.layers.SimpleRNN(3, "relu", recurrent_initializer=start, name="rnn",
                                 kernel_initializer="ones")  # fmt: skip
    net = keras.Sequential([keras.Input((30, 2)), rnn, keras.layers.Dense(1, name="head")])
    net.compile(keras.optimizers.SGD(), "mse", jit_compile=False)
    return net


def fit_recurrent(net: keras.Model, inputs: np.ndarray, tmp_path) -> tuple[list[str], GroupHealth]:
    unfreeze = ResumableUnfreezing(net, [Phase("all", 2, 1e-9, train=["all"])])
    said: list[str] = []
    health = GroupHealth(Run(str(tmp_path)), unfreeze, report=said.append)
    net.fit(inputs, TARGETS, epochs=2, batch_size=8, callbacks=[unfreeze, health], verbose=0)
    return said, health


def test_gradients_that_vanish_or_explode_through_time_are_named(tmp_path):
    inputs = np.zeros((8, 30, 2), "float32")
    inputs[:, -1] = 1.0  # nothing before the last step
    said, _ = fit_recurrent(recurrent(0.5), inputs, tmp_path / "one")
    assert len(said) == 1
    assert "the gradients of rnn, through time (0) vanish: no step learns from the ones" in said[0]
    said, _ = fit_recurrent(recurrent(50.0), np.ones_like(inputs), tmp_path / "two")
    assert any("the gradients of rnn" in line and "explode" in line for line in said)
    said, health = fit_recurrent(recurrent(0.5), np.ones_like(inputs), tmp_path / "three")
    assert said == []
    before = health.state()["before"]
    assert 0 < before["rnn, through time"] < before["rnn"]


def test_a_healthy_model_gives_no_warning(tmp_path):
    assert not fit(model(), tmp_path)


def test_rates_and_norms_of_each_group_go_to_tensorboard(tmp_path):
    fit(model(), tmp_path, epochs=2)
    found = {}
    files = tf.io.gfile.glob(str(tmp_path / "logs" / "groups" / "events*"))
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    assert set(found) == {
        f"{k}/{g}" for k in ("learning_rate", "gradient_norm") for g in ("body", "head")
    }
    assert found["learning_rate/head"][1] == pytest.approx(0.5e-6)  # cosine: half way
    assert found["gradient_norm/body"][1] > 0


def test_norms_are_of_the_updates_since_they_were_read_also_after_a_resume():
    def made() -> tuple[keras.Model, ResumableUnfreezing]:
        net = model()
        unfreeze = ResumableUnfreezing(net, [Phase("all", 2, 1e-6, train=["all"])])
        unfreeze.prepare()
        return net, unfreeze

    whole, unfreeze = made()
    unfreeze.optimizer.iterations.assign(10)
    assert unfreeze.optimizer.gradient_norms() == {}  # read after 10 updates
    unfreeze.optimizer.iterations.assign(14)
    resumed, other = made()
    for new, old in zip(resumed.optimizer.variables, whole.optimizer.variables, strict=True):
        new.assign(old)
    for each in (unfreeze, other):
        squares = {v.name: v for v in each.optimizer.variables}["squared_gradients_0"]
        squares.assign(36.0)  # of 4 updates
        assert list(each.optimizer.gradient_norms().values()) == [3.0]


def test_gradients_near_zero_may_grow_a_thousandfold(tmp_path):
    """As of a head that starts from the floor and fits its examples already."""

    class Spoil(keras.callbacks.Callback):
        """Moves the bias before the second epoch, so that the loss grows from nearly 0."""

        def __init__(self, by: float):
            super().__init__()
            self.by = by

        def on_epoch_begin(self, epoch, logs=None):
            if epoch:
                self.model.get_layer("head").bias.assign([self.by])

    def said_of(by: float) -> list[str]:
        net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="head")])
        net.get_layer("head").set_weights([np.ones((4, 1)), np.array([1e-5])])
        net.compile(keras.optimizers.SGD(), "mse", jit_compile=False)
        unfreeze = ResumableUnfreezing(net, [Phase("all", 2, 1e-9, train=["all"])])
        said: list[str] = []
        health = GroupHealth(Run(str(tmp_path / str(by))), unfreeze, report=said.append)
        callbacks = [Spoil(by), unfreeze, health]
        net.fit(INPUTS, TARGETS, epochs=2, batch_size=8, callbacks=callbacks, verbose=0)
        return said

    assert said_of(1.0) == []
    [line] = said_of(100.0)
    assert "explode" in line
