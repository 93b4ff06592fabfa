"""Checkpoints by Keras's own callbacks: resumed with ftkeras, read without it, refused if wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.phases import Phase, StagedUnfreezing, Until

INPUTS = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
LABELS = np.arange(24) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = Phase("head", epochs=1, learning_rate=0.02)
TOP = Phase("top", epochs=1, train=["head", "blocks[-1]"], layer_decay=0.5)
ALL = Phase("all", epochs=1, train=["all"])
THREE = [HEAD, TOP, ALL]
OPTIONS = {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.9}


def network(**options: object) -> keras.Model:
    """Returns a compiled network whose layers have the names that Keras chooses."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(5, "tanh"), keras.layers.Dense(4, "tanh"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.AdamW(**(options or OPTIONS)), LOSS, jit_compile=False)
    return model


def fit(
    model: keras.Model, callbacks: list[keras.callbacks.Callback], epochs: int = 3, **options: int
) -> keras.callbacks.History:
    data = {"batch_size": 4, "shuffle": False, "callbacks": callbacks, "verbose": 0}
    return model.fit(INPUTS, LABELS, epochs=epochs, **data, **options)


class Killed(Exception):
    pass


class KilledAt(keras.callbacks.Callback):
    """Ends `fit` as a lost process would, before a batch of an epoch."""

    def __init__(self, epoch: int, batch: int = 0):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        if (self.epoch, batch) == self.at:
            raise Killed


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.fixture(scope="module")
def whole() -> list[np.ndarray]:
    """The weights after all three phases, never stopped."""
    model = network()
    fit(model, [StagedUnfreezing(model, THREE)])
    return model.get_weights()


# ------------------------------------------------------------------------ a new process

RESUME = """
import sys; sys.path.insert(0, {folder!r})
import numpy as np
from test_checkpoints import *
model = network()
unfreeze = StagedUnfreezing(model, THREE)
unfreeze.prepare(model)
model.load_weights({path!r})
fit(model, [unfreeze], initial_epoch=2)
np.savez({out!r}, *model.get_weights())
"""

WITHOUT = """
import json, sys, warnings
import keras, numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = keras.models.load_model({path!r})
said = [str(w.message) for w in caught if "optimizer" in str(w.message)]
assert not [name for name in sys.modules if name.startswith("ftkeras")]
inputs = np.load({inputs!r})
scores = model.predict(inputs, verbose=0)
model.fit(inputs, np.arange(len(inputs)) % 3, verbose=0)
print(json.dumps([said, type(model.optimizer).__name__, scores.tolist()]))
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epoch_{epoch}.weights.h5", "epoch_{epoch}.keras"])
def test_a_new_process_resumes_a_checkpoint_to_the_same_end(name, whole, tmp_path):
    model = network()
    save = keras.callbacks.ModelCheckpoint(
        str(tmp_path / name), save_weights_only="weights" in name
    )
    with pytest.raises(Killed):
        fit(model, [StagedUnfreezing(model, THREE), save, KilledAt(2, 3)])
    path, out = str(tmp_path / name.format(epoch=2)), str(tmp_path / "end.npz")
    run(RESUME.format(folder=str(Path(__file__).parent), path=path, out=out))
    with np.load(out) as end:
        assert equal([end[key] for key in end.files], whole)


@pytest.mark.slow
def test_a_process_without_ftkeras_loads_the_model_and_keras_says_what_it_leaves_out(tmp_path):
    model = network(weight_decay=0.1)
    fit(model, [StagedUnfreezing(model, THREE)])
    path, inputs = str(tmp_path / "model.keras"), str(tmp_path / "inputs.npy")
    model.save(path)
    np.save(inputs, INPUTS)
    said, optimizer, scores = json.loads(run(WITHOUT.format(path=path, inputs=inputs)))
    assert optimizer == "AdamW"
    (warning,) = said
    assert "Skipping variable loading for optimizer" in warning
    np.testing.assert_array_equal(np.float32(scores), model.predict(INPUTS, verbose=0))


# ---------------------------------------------------------------------- the same process


@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras"])
def test_layers_without_names_of_their_own_resume_in_the_same_process(name, whole, tmp_path):
    """Keras counts their names through the process, so the second model has others."""
    model = network()
    save = keras.callbacks.ModelCheckpoint(
        str(tmp_path / name), save_weights_only="weights" in name
    )
    fit(model, [StagedUnfreezing(model, THREE), save], epochs=1)
    resumed = network()
    assert resumed.weights[0].path != model.weights[0].path
    unfreeze = StagedUnfreezing(resumed, THREE)
    unfreeze.prepare(resumed)
    resumed.load_weights(tmp_path / name)
    fit(resumed, [unfreeze], initial_epoch=1)
    assert equal(resumed.get_weights(), whole)


def test_a_loaded_model_is_ready_for_phases(whole, tmp_path):
    model = network()
    with pytest.raises(Killed):
        fit(model, [StagedUnfreezing(model, THREE), KilledAt(2)])
    model.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    unfreeze = StagedUnfreezing(loaded, THREE)
    unfreeze.prepare(loaded)
    loaded.load_weights(tmp_path / "m.keras")
    fit(loaded, [unfreeze], initial_epoch=2)
    assert equal(loaded.get_weights(), whole)


ALL_FIRST = [
    Phase("all", epochs=1, learning_rate=0.02, train=["all"], layer_decay=0.5),
    Phase("head", train=["head"]),
    Phase("top", train=["head", "blocks[-1]"]),
]
OTHER_RATE = [HEAD, TOP, Phase("all", epochs=1, train=["all"], rates={"blocks[-1]": 0.002})]
OTHER_PHASES = [
    ([HEAD], "it also trained dense/bias, dense/kernel, dense_1/bias and 1 more."),
    (ALL_FIRST, "in its phases dense/kernel, dense/bias, dense_1/kernel and 1 more trained at "
     "(frozen, frozen, 0.25 of the rate), and now at (0.25 of the rate, frozen, frozen)."),
    (OTHER_RATE, "in its phases dense_1/kernel, dense_1/bias trained at "
     "(frozen, 0.5 of the rate, 0.5 of the rate), and now at (frozen, 0.5 of the rate, 0.1 of "),
]  # fmt: skip


@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras"])
@pytest.mark.parametrize(("phases", "difference"), OTHER_PHASES, ids=["fewer", "order", "rates"])
def test_other_phases_are_refused_by_the_weights_that_differ(name, phases, difference, tmp_path):
    model = network()
    StagedUnfreezing(model, THREE).prepare(model)
    (model.save_weights if "weights" in name else model.save)(tmp_path / name)
    other = network()
    StagedUnfreezing(other, phases).prepare(other)
    with pytest.raises(ValueError, match=r"PhasedOptimizer of AdamW") as caught:
        other.load_weights(tmp_path / name)
    (line,) = [line for line in str(caught.value).splitlines() if "the checkpoint's" in line]
    assert line.startswith("the checkpoint's optimizer belongs to other phases: " + difference)
    assert " object at 0x" not in str(caught.value)


def test_the_state_of_a_plain_optimizer_is_left_out_with_a_warning(tmp_path):
    model = network()
    fit(model, [])
    model.save_weights(tmp_path / "m.weights.h5")
    other = network()
    unfreeze = StagedUnfreezing(other, THREE)
    unfreeze.prepare(other)
    with pytest.warns(UserWarning, match="an optimizer of no phases, which is left out"):
        other.load_weights(tmp_path / "m.weights.h5")
    assert equal(other.get_weights(), model.get_weights())
    fit(other, [unfreeze])


def test_a_model_that_was_trained_before_the_phases_saves_no_state_of_that(tmp_path):
    model = network()
    fit(model, [])
    fit(model, [StagedUnfreezing(model, THREE)], epochs=1)
    model.save_weights(tmp_path / "m.weights.h5")
    other = network()
    unfreeze = StagedUnfreezing(other, THREE)
    unfreeze.prepare(other)
    other.load_weights(tmp_path / "m.weights.h5")  # without a warning
    assert int(other.optimizer.micro_steps.numpy()) == 6


def test_a_model_that_was_compiled_with_the_optimizer_for_phases_can_be_loaded(tmp_path):
    model = network()
    unfreeze = StagedUnfreezing(model, THREE)
    fit(model, [unfreeze], epochs=1)
    model.compile(model.optimizer, LOSS, jit_compile=False)
    fit(model, [unfreeze], epochs=2, initial_epoch=1)
    assert steps_of(model) == 12
    model.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="phases that are not known here, which is left out"):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    fit(loaded, [], epochs=1)
    StagedUnfreezing(loaded, THREE).prepare(loaded)
    loaded.load_weights(tmp_path / "m.keras")
    assert steps_of(loaded) == 12


# --------------------------------------------------------------------- BackupAndRestore


def backed_up(folder: Path, *more: keras.callbacks.Callback, **options: object) -> keras.Model:
    model = network()
    unfreeze = StagedUnfreezing(model, THREE)
    fit(model, [unfreeze, keras.callbacks.BackupAndRestore(folder, **options), *more])
    return model


@pytest.mark.parametrize("at", [(0, 4), (1, 0), (1, 5), (2, 0), (2, 3)])
def test_a_fit_that_was_killed_in_any_epoch_ends_as_one_that_was_not(at, whole, tmp_path):
    with pytest.raises(Killed):
        backed_up(tmp_path, KilledAt(*at))
    assert equal(backed_up(tmp_path).get_weights(), whole)


def test_a_backup_within_an_epoch_resumes_at_that_epochs_begin(whole, tmp_path):
    """Keras repeats the epoch's batches on the weights of its middle; phases do not change it."""

    def plain(folder: Path, *more: keras.callbacks.Callback) -> keras.Model:
        model = network()
        fit(model, [keras.callbacks.BackupAndRestore(folder, save_freq=4), *more])
        return model

    steps = []
    for train in (plain, lambda *a: backed_up(*a, save_freq=4)):
        with pytest.raises(Killed):
            train(tmp_path / str(len(steps)), KilledAt(1, 5))
        model = train(tmp_path / str(len(steps)))
        steps.append(int(keras.ops.convert_to_numpy(model.optimizer.iterations)))
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert steps[0] == steps[1]


UNTIL = [
    Phase("head", until=Until("loss", patience=2, max_epochs=5, min_delta=9.0), learning_rate=0.02),
    Phase("all", epochs=2, train=["all"]),
]


def until(
    folder: Path, first: bool, *more: keras.callbacks.Callback
) -> tuple[keras.Model, list[int]]:
    model = network()
    unfreeze = StagedUnfreezing(model, UNTIL)
    backup = keras.callbacks.BackupAndRestore(folder)
    callbacks = [backup, unfreeze] if first else [unfreeze, backup]
    history = fit(model, [*callbacks, *more], unfreeze.epochs)
    return model, history.epoch


@pytest.mark.parametrize("killed", [1, 2, 3, 4])
def test_a_phase_with_until_resumes_with_its_best_epoch(killed, tmp_path):
    plain, epochs = until(tmp_path / "whole", False)
    assert epochs == [0, 1, 2, 3, 4]  # the first epoch is the best, and two are waited for
    with pytest.raises(Killed):
        until(tmp_path / "killed", False, KilledAt(killed, 1))
    resumed, epochs = until(tmp_path / "killed", False)
    assert epochs[-1] == 4
    assert equal(resumed.get_weights(), plain.get_weights())


def test_a_backup_listed_first_lacks_the_last_metric_which_is_said(tmp_path):
    with pytest.raises(Killed):
        until(tmp_path, True, KilledAt(2, 1))
    with pytest.warns(UserWarning, match="phase 'head' resumes without the metric of epoch 2"):
        until(tmp_path, True)


# ------------------------------------------------------ fit again, compile, other callbacks


def steps_of(model: keras.Model) -> int:
    return int(keras.ops.convert_to_numpy(model.optimizer.micro_steps))


def test_a_second_fit_begins_with_the_first_phase_and_keeps_momenta_and_counts():
    model = network()
    unfreeze = StagedUnfreezing(model, THREE)
    fit(model, [unfreeze])
    optimizer = model.optimizer
    before = model.get_weights()
    again = fit(model, [unfreeze])
    assert again.epoch == [0, 1, 2]
    assert list(unfreeze.verdicts) == ["head", "top", "all"]
    assert model.optimizer is optimizer
    assert steps_of(model) == 36
    assert not equal(model.get_weights(), before)


def test_a_second_fit_forgets_the_best_epoch_of_the_first():
    model = network()
    unfreeze = StagedUnfreezing(model, UNTIL[:1])
    assert fit(model, [unfreeze], 5).epoch == [0, 1, 2]
    assert fit(model, [unfreeze], 5).epoch == [0, 1, 2]


def test_a_fit_of_some_epochs_is_continued_by_initial_epoch(whole):
    model = network()
    unfreeze = StagedUnfreezing(model, THREE)
    fit(model, [unfreeze], epochs=1)
    fit(model, [unfreeze], epochs=2, initial_epoch=1)
    another = StagedUnfreezing(model, THREE)
    fit(model, [another], initial_epoch=2)
    # Keras overwrites the weights with their averages at the end of each `fit`.
    assert steps_of(model) == 18
    assert list(unfreeze.verdicts) == ["head", "top"]
    assert list(another.verdicts) == ["all"]


def test_compile_makes_a_new_optimizer_and_so_a_new_training():
    model = network()
    unfreeze = StagedUnfreezing(model, THREE)
    fit(model, [unfreeze])
    model.compile(keras.optimizers.SGD(), LOSS, jit_compile=False)
    fit(model, [unfreeze])
    assert isinstance(model.optimizer.template(), keras.optimizers.SGD)
    assert steps_of(model) == 18
    model.compile("adam", LOSS, jit_compile=False)
    with pytest.raises(ftkeras.UserError, match="starts at epoch 2"):
        fit(model, [unfreeze], initial_epoch=1)


def test_another_callback_with_the_same_phases_keeps_the_state_and_with_others_begins_again():
    model = network()
    fit(model, [StagedUnfreezing(model, THREE)])
    fit(model, [StagedUnfreezing(model, THREE)])
    assert steps_of(model) == 36
    fit(model, [StagedUnfreezing(model, [Phase("all", 1, 0.02, ["all"])])], epochs=1)
    assert steps_of(model) == 6


def test_the_same_phases_that_also_restore_the_best_epoch_have_room_for_it():
    model = network()
    flat = [Phase("head", epochs=2, learning_rate=0.02), Phase("all", epochs=1, train=["all"])]
    fit(model, [StagedUnfreezing(model, flat)])
    unfreeze = StagedUnfreezing(model, [UNTIL[0], UNTIL[1]])
    assert len(fit(model, [unfreeze], unfreeze.epochs).epoch) == 5


def test_two_callbacks_with_other_phases_in_one_fit_are_refused():
    model = network()
    two = [StagedUnfreezing(model, THREE), StagedUnfreezing(model, UNTIL)]
    with pytest.raises(ftkeras.UserError, match="got two of them"):
        fit(model, two)


def test_the_best_epoch_comes_back_with_its_averages():
    model = network(use_ema=True, ema_momentum=0.5)
    unfreeze = StagedUnfreezing(model, [UNTIL[0]])
    averages = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                kept = {
                    id(v): v for v in unfreeze.optimizer.variables if v.name.endswith("average")
                }
                averages.extend(v.numpy() for v in kept.values())

    fit(model, [Watch(), unfreeze], 5)
    assert len(averages) == 2
    assert equal(model.layers[-1].get_weights(), averages)
