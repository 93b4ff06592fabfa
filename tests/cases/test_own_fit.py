"""The callback in a person's own script: resuming, other callbacks, optimizers, and own loops."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import ftkeras

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(32, 4)).astype("float32")
LABELS = np.arange(32) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = ftkeras.Phase("head", epochs=2, learning_rate=1e-2, train=["head"])
ALL = ftkeras.Phase("all", epochs=2, learning_rate=1e-2, train=["all"])


def compiled(optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    """Returns the same network each time, with a block `hidden` and a head `logits`."""
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(8, "tanh", name="hidden")
    logits = keras.layers.Dense(3, name="logits")
    model = keras.Sequential([keras.Input((4,)), hidden, logits])
    model.compile(optimizer or keras.optimizers.Adam(), LOSS, jit_compile=False)
    return model


def fit(
    model: keras.Model, callbacks: list[keras.callbacks.Callback], epochs: int, **options: object
) -> keras.callbacks.History:
    return model.fit(
        INPUTS,
        LABELS,
        batch_size=8,
        shuffle=False,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
        **options,
    )


# ------------------------------------------------------------------------------- resuming


class Killed(Exception):
    pass


class KilledAfter(keras.callbacks.Callback):
    """Ends `fit` as a lost process would: no callback gets to clean up."""

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        if epoch == self.epochs:
            raise Killed


def by_backup(folder: Path, killed: bool, phases: list[ftkeras.Phase]) -> keras.Model:
    return backed_up(folder, killed, phases, first=False)


def by_backup_listed_first(folder: Path, killed: bool, phases: list[ftkeras.Phase]) -> keras.Model:
    return backed_up(folder, killed, phases, first=True)


def backed_up(folder: Path, killed: bool, phases: list[ftkeras.Phase], first: bool) -> keras.Model:
    model = compiled()
    unfreeze = ftkeras.StagedUnfreezing(model, phases)
    callbacks = [unfreeze, keras.callbacks.BackupAndRestore(folder / "backup")]
    callbacks = callbacks[::-1] if first else callbacks
    fit(model, callbacks + [KilledAfter(3)] * killed, unfreeze.epochs)
    return model


def by_weights_file(folder: Path, killed: bool, phases: list[ftkeras.Phase]) -> keras.Model:
    model, path = compiled(), folder / "last.weights.h5"
    unfreeze = ftkeras.StagedUnfreezing(model, phases)
    if killed:
        save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
        fit(model, [unfreeze, save, KilledAfter(3)], unfreeze.epochs)
    unfreeze.prepare(model)
    model.load_weights(path)
    fit(model, [unfreeze], unfreeze.epochs, initial_epoch=3)
    return model


@pytest.mark.parametrize("resumed", [by_backup, by_backup_listed_first, by_weights_file])
@pytest.mark.parametrize("phases", [[HEAD, ALL], [ALL, HEAD]], ids=["unfreezes", "freezes"])
def test_a_resumed_fit_ends_as_one_that_was_never_stopped(phases, resumed, tmp_path):
    """keras 22010."""
    whole = compiled()
    unfreeze = ftkeras.StagedUnfreezing(whole, phases)
    fit(whole, [unfreeze], unfreeze.epochs)
    with pytest.raises(Killed):
        resumed(tmp_path, True, phases)
    after = resumed(tmp_path, False, phases).get_weights()
    apart = [np.abs(a - b).max() for a, b in zip(whole.get_weights(), after, strict=True)]
    assert max(apart) == 0.0


def test_a_later_epoch_without_the_optimizers_state_is_refused(tmp_path):
    """keras 22010: the weights alone would train on with momenta of zero."""
    model = by_backup(tmp_path, False, [HEAD, ALL])
    model.save_weights(tmp_path / "w.weights.h5")
    model = compiled()
    unfreeze = ftkeras.StagedUnfreezing(model, [HEAD, ALL])
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        model.load_weights(tmp_path / "w.weights.h5")
    before = model.get_weights()
    with pytest.raises(ftkeras.UserError, match=r"epoch 4.* unfreeze\.prepare\(model\)"):
        fit(model, [unfreeze], unfreeze.epochs, initial_epoch=3)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# -------------------------------------------------------------------------- other callbacks


class Moves(keras.callbacks.Callback):
    """Keeps how far the one weight moved in each epoch."""

    def on_train_begin(self, logs: object = None) -> None:
        self.moves: list[float] = []
        self.before = float(self.model.get_weights()[0].sum())

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        after = float(self.model.get_weights()[0].sum())
        self.moves.append(self.before - after)
        self.before = after


def tenth_of_the_rate(kind: str) -> keras.callbacks.Callback:
    """Returns a callback that lowers the rate to a tenth from the third epoch on."""
    if kind == "ReduceLROnPlateau":
        return keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.1, patience=1, min_delta=1e9, cooldown=9
        )
    return keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate * 0.1 if epoch == 2 else rate
    )


@pytest.mark.parametrize("kind", ["ReduceLROnPlateau", "LearningRateScheduler"])
@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_a_callback_that_sets_the_rate_acts_or_is_refused(kind, first):
    """tensorflow 49208. The gradient is constant, so the moves follow the rate."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(), lambda truth, said: said, jit_compile=False)
    phase = ftkeras.Phase("all", epochs=3, learning_rate=0.1, train=["all"], decay="constant")
    unfreeze, moves = ftkeras.StagedUnfreezing(model, [phase]), Moves()
    callbacks = [unfreeze, tenth_of_the_rate(kind)]
    callbacks = [*(reversed(callbacks) if first else callbacks), moves]
    before = model.get_weights()[0]
    ones = np.ones((8, 1), "float32")
    try:
        model.fit(ones, ones, batch_size=4, epochs=3, callbacks=callbacks, verbose=0)
    except ftkeras.UserError:
        np.testing.assert_array_equal(model.get_weights()[0], before)
        return
    np.testing.assert_allclose(moves.moves, [0.2, 0.2, 0.02], rtol=1e-4)


class KeepsFirst(keras.callbacks.Callback):
    """Keeps the weights after the first epoch."""

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        if epoch == 0:
            self.weights = self.model.get_weights()


@pytest.mark.parametrize("first", [True, False], ids=["listed first", "last"])
def test_early_stopping_restores_its_best_weights_in_either_order(first):
    """keras 13488. The loss is maximised, so that the first epoch is the best."""
    model, keep = compiled(), KeepsFirst()
    unfreeze = ftkeras.StagedUnfreezing(model, [ALL, HEAD])
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True)
    callbacks = [stop, unfreeze, keep] if first else [unfreeze, stop, keep]
    history = fit(model, callbacks, unfreeze.epochs)
    assert len(history.history["loss"]) == 4
    assert list(unfreeze.verdicts) == ["all", "head"]
    for best, now in zip(keep.weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, best)


# ------------------------------------------------------------------------------ optimizers


def refused_when_made(optimizer: keras.optimizers.Optimizer) -> None:
    """Checks that the answer is one line, and comes before any training."""
    model = compiled(optimizer)
    made = False
    with pytest.raises(ftkeras.UserError) as caught:
        unfreeze = ftkeras.StagedUnfreezing(model, [HEAD])
        made = True
        fit(model, [unfreeze], 2)
    assert not made
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_schedule_in_the_optimizer_is_refused(name):
    """No thread is named: seen in version 0.1. The phases set the rate."""
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 100)
    refused_when_made(getattr(keras.optimizers, name)(rate))


def test_several_optimizers_in_one_are_refused():
    """No thread is named: seen in version 0.1."""
    refused_when_made(keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.Adam()))


# ------------------------------------------------------------------------------- own loops

RATE = ftkeras.Phase("head", epochs=1, learning_rate=0.5, train=["head"], decay="constant")
SLOWER = ftkeras.Phase("all", epochs=1, learning_rate=0.25, train=["all"])


def step(model: keras.Model) -> None:
    """One step of a training loop of one's own."""
    with tf.GradientTape() as tape:
        loss = LOSS(LABELS, model(INPUTS, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    model.optimizer.apply(gradients, model.trainable_variables)


def test_a_phase_begins_in_a_loop_of_ones_own():
    """keras 10222: `enter` says that a training loop of your own calls it."""
    model = compiled(keras.optimizers.SGD(0.001))
    unfreeze = ftkeras.StagedUnfreezing(model, [SLOWER, RATE])
    before = model.get_weights()
    unfreeze.enter(1)
    step(model)
    both = zip(before, model.get_weights(), strict=True)
    assert [np.array_equal(a, b) for a, b in both] == [True, True, False, False]


def test_steps_of_ones_own_loop_use_the_rate_of_the_phase():
    """keras 10222. The step of a model that has the rate in its optimizer is right."""
    model, right = compiled(keras.optimizers.SGD(0.001)), compiled(keras.optimizers.SGD(0.5))
    unfreeze = ftkeras.StagedUnfreezing(model, [RATE, SLOWER])
    unfreeze.set_model(model)
    unfreeze.enter(0)
    right.layers[0].trainable = False
    for each in (model, right):
        step(each)
    for a, b in zip(model.get_weights(), right.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_the_next_phase_of_ones_own_loop_audits_the_one_before():
    """keras 10222."""
    model = compiled(keras.optimizers.SGD(0.001))
    unfreeze = ftkeras.StagedUnfreezing(model, [RATE, SLOWER])
    unfreeze.set_model(model)
    unfreeze.enter(0)
    step(model)
    unfreeze.enter(1)
    assert list(unfreeze.verdicts) == ["head"]
    verdict = unfreeze.verdicts["head"]
    assert (verdict.frozen, verdict.trained, verdict.drifted) == (2, 2, ())


# ------------------------------------------------------------------------------- lengths

TWO = [ftkeras.Phase("one", 2, 0.1), ftkeras.Phase("two", 3, 0.1, train=["all"])]


@pytest.mark.parametrize(
    ("epochs", "line"),
    [
        (5, ""),
        (
            1,
            "note: fit has 1 epoch, and all phases have 5: it ends with phase 'one', and 'two' may "
            "not begin. Take epochs=5 for all.",
        ),
        (3, "note: fit has 3 epochs, and all phases have 5: it ends with phase 'two'. Take epochs"),
        (9, "note: fit has 9 epochs, and all phases have 5: training ends after 5 epochs."),
    ],
)
def test_a_fit_that_is_shorter_or_longer_than_the_phases_is_told_of(epochs, line, capsys):
    model = compiled()
    history = fit(model, [ftkeras.StagedUnfreezing(model, TWO)], epochs)
    assert len(history.epoch) == min(epochs, 5)
    shown = capsys.readouterr().out
    assert shown.startswith(line) and bool(line) == ("note: fit has" in shown)


def test_a_phase_that_may_end_early_makes_the_length_a_limit():
    model, said = compiled(), []
    until = ftkeras.Until("loss", patience=1, max_epochs=4)
    phases = [ftkeras.Phase("one", until=until, learning_rate=0.1)]
    fit(model, [ftkeras.StagedUnfreezing(model, phases, report=said.append)], 6)
    assert said[0] == (
        "note: fit has 6 epochs, and all phases have at most 4: training ends after at most 4 "
        "epochs."
    )
