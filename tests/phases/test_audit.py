"""The audit, against changes that are hard to see."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.errors import TrainingError, UserError
from ftkeras.phases import Phase, StagedUnfreezing

INPUTS = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
LABELS = np.arange(8) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = Phase("head", epochs=1, learning_rate=0.01)
HIDDEN = Phase("hidden", epochs=1, train=["block:hidden"])


class Scaled(keras.layers.Layer):
    """A layer with weights of its own, in a list and in a dict, and a layer in a list."""

    def build(self, shape):
        self.listed = [self.add_weight(shape=(4,), initializer="ones", name="listed")]
        self.named = {"by": self.add_weight(shape=(4,), initializer="ones", name="named")}
        self.fixed = self.add_weight(shape=(4,), trainable=False, name="fixed")
        self.layers_inside = [keras.layers.Dense(4, name="inside")]
        self.layers_inside[0].build(shape)

    def call(self, x):
        return self.layers_inside[0](x * self.listed[0] * self.named["by"] + self.fixed)


def network(model_class: type[keras.Model] = keras.Model) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = Scaled(name="scaled")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Dense(4, name="hidden")(x))
    model = model_class(inputs, keras.layers.Dense(3, name="logits")(x))
    model.compile(keras.optimizers.Adam(), LOSS, jit_compile=False)
    return model


def fit(
    model: keras.Model, phases: list[Phase], *others: keras.callbacks.Callback, first: bool = True
) -> StagedUnfreezing:
    unfreeze = StagedUnfreezing(model, phases)
    callbacks = [unfreeze, *others] if first else [*others, unfreeze]
    data = {"batch_size": 4, "callbacks": callbacks, "verbose": 0}
    model.fit(INPUTS, LABELS, epochs=unfreeze.epochs, validation_data=(INPUTS, LABELS), **data)
    return unfreeze


def nudge(variable: keras.Variable) -> None:
    """Changes the last bit of one number."""
    value = np.array(variable.numpy())
    value.flat[0] = np.nextafter(value.flat[0], np.inf)
    variable.assign(value)


PLACES: dict[str, Callable[[keras.Model], keras.Variable]] = {
    "scaled/listed": lambda model: model.get_layer("scaled").listed[0],
    "scaled/named": lambda model: model.get_layer("scaled").named["by"],
    "scaled/fixed": lambda model: model.get_layer("scaled").fixed,
    "scaled/inside/kernel": lambda model: model.get_layer("scaled").layers_inside[0].kernel,
    "norm/moving_mean": lambda model: model.get_layer("norm").moving_mean,
    "norm/beta": lambda model: model.get_layer("norm").beta,
    "hidden/bias": lambda model: model.get_layer("hidden").bias,
}


def at(moment: str, path: str) -> keras.callbacks.Callback:
    def act(*_: object, **__: object) -> None:
        nudge(PLACES[path](callback.model))

    callback = keras.callbacks.LambdaCallback()
    setattr(callback, moment, act)
    return callback


@pytest.mark.parametrize("path", PLACES)
def test_it_finds_one_bit_wherever_a_model_keeps_it(path):
    with pytest.raises(TrainingError, match=f"phase 'head': 1 frozen variable changed: {path}"):
        fit(network(), [HEAD], at("on_train_batch_end", path))


@pytest.mark.parametrize(
    ("moment", "phase", "first"),
    [
        ("on_train_batch_begin", "head", True),
        ("on_epoch_end", "head", True),
        ("on_epoch_end", "head", False),
        ("on_test_batch_end", "head", True),
        ("on_test_end", "head", False),
        ("on_epoch_begin", "hidden", True),  # between two phases: the second has begun
        ("on_epoch_begin", "head", False),  # or: the first has not ended
    ],
)
def test_it_finds_a_change_at_any_moment(moment, phase, first):
    happens = at(moment, "scaled/listed")
    act, times = getattr(happens, moment), []

    def once(*_: object, **__: object) -> None:
        times.append(moment)
        if moment != "on_epoch_begin" or len(times) == 2:
            act()

    setattr(happens, moment, once)
    with pytest.raises(TrainingError, match=f"phase '{phase}'.*scaled/listed"):
        fit(network(), [HEAD, HIDDEN], happens, first=first)


def test_listed_last_it_finds_what_others_do_at_the_end_of_the_last_epoch():
    with pytest.raises(TrainingError, match="scaled/listed"):
        fit(network(), [HEAD], at("on_epoch_end", "scaled/listed"), first=False)


class TwoOptimizers(keras.Model):
    """Also trains a list of weights by an optimizer that phases know nothing about."""

    def train_step(self, data):
        logs = super().train_step(data)
        kernel = self.get_layer("hidden").kernel
        self.other.apply([tf.ones_like(kernel)], [kernel])
        return logs


def test_it_finds_what_an_optimizer_inside_the_train_step_trains():
    model = network(TwoOptimizers)
    model.other = keras.optimizers.SGD(1e-3)
    model.other.build([model.get_layer("hidden").kernel])
    with pytest.raises(TrainingError, match="phase 'head': 1 .*hidden/kernel"):
        fit(model, [HEAD])


def test_it_finds_a_weight_of_the_models_own_and_one_that_its_owner_froze():
    model = network()
    model.own = model.add_weight(shape=(), name="own")
    kernel = model.get_layer("hidden").kernel
    kernel.trainable = False
    for change in (model.own, kernel):
        nudges = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, change=change: nudge(change)
        )
        with pytest.raises(TrainingError, match=rf"phase 'hidden': 1 .*{change.name}"):
            fit(model, [Phase("hidden", 1, 0.01, ["block:hidden"])], nudges)


def test_statistics_and_seeds_of_layers_that_train_may_move():
    unfreeze = fit(network(), [Phase("all", 1, 0.01, ["all"], batch_norm="train")])
    verdict = unfreeze.verdicts["all"]
    # What a layer that trains keeps besides its weights, as batch norm does, is free to move.
    assert (verdict.frozen, verdict.drifted) == (0, ())
    unfreeze = fit(network(), [Phase("head", 1, 0.01)])
    assert unfreeze.verdicts["head"].frozen == 11


@pytest.mark.slow
def test_it_finds_a_change_on_the_second_replica_alone(two_replicas):
    with two_replicas.scope():
        model = network()

    def act(*_: object, **__: object) -> None:
        second = two_replicas.experimental_local_results(model.get_layer("hidden").bias.value)[1]
        second.assign(np.nextafter(second.numpy(), np.float32(1)))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=act)
    with pytest.raises(TrainingError, match="phase 'head': 1 .*hidden/bias"):
        fit(model, [HEAD], callback)


def test_a_layer_that_was_added_after_the_callback_was_made_is_an_error():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="old")])
    model.compile("adam", LOSS)
    unfreeze = StagedUnfreezing(model, [Phase("all", 1, 0.01, ["all"])])
    model.add(keras.layers.Dense(3, name="new"))
    before = model.get_weights()
    with pytest.raises(UserError, match="weight 'new/kernel' is not in the plan"):
        model.fit(INPUTS, LABELS, callbacks=[unfreeze], verbose=0)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, was)
