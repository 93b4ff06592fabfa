"""StagedUnfreezing beside Keras's other callbacks, and what people pass to `fit`."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.phases import Phase, StagedUnfreezing, Until

INPUTS = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
LABELS = np.arange(16) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = Phase("head", epochs=2, learning_rate=0.1, decay="constant")
ALL = Phase("all", train=["all"], learning_rate=0.01)
PHASES = [HEAD, ALL]
Callbacks = list[keras.callbacks.Callback]


def network(optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(5, "tanh", name="hidden")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, name="logits")])
    model.compile(optimizer or keras.optimizers.SGD(), LOSS, jit_compile=False)
    return model


def fit(
    model: keras.Model, callbacks: Callbacks, epochs: int = 4, **options: object
) -> keras.callbacks.History:
    data = {"batch_size": 4, "shuffle": False, "callbacks": callbacks, "verbose": 0}
    return model.fit(INPUTS, LABELS, epochs=epochs, **data, **options)


class Rates(keras.callbacks.Callback):
    """Keeps the rate of each step, as the optimizer used it."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


# ---------------------------------------------------------------------- the learning rate


@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "loss scaling"])
def test_reduce_lr_on_plateau_scales_this_phase_and_those_that_follow(first, scaled):
    inner = keras.optimizers.SGD()
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0) if scaled else inner
    model, rates = network(optimizer), Rates()
    reduce = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, patience=1, min_delta=9.0, min_lr=0.02
    )
    unfreeze = StagedUnfreezing(model, PHASES)
    callbacks = [reduce, unfreeze] if first else [unfreeze, reduce]
    history = fit(model, [*callbacks, rates])
    # Epoch 2 is the first without progress: 0.1 halves. In the next phase 0.01 * 0.5 is below
    # min_lr, which stops further steps down.
    np.testing.assert_allclose(rates.rates[::4], [0.1, 0.1, 0.005, 0.005], rtol=1e-6)
    np.testing.assert_allclose(history.history["learning_rate"], rates.rates[3::4], rtol=1e-6)


@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_a_scheduler_is_refused_before_the_first_batch(first):
    model = network()
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5)
    unfreeze = StagedUnfreezing(model, PHASES)
    before = model.get_weights()
    with pytest.raises(ftkeras.UserError, match="another callback|a callback sets the learning"):
        fit(model, [schedule, unfreeze] if first else [unfreeze, schedule])
    assert equal(before, model.get_weights())


class Sets(keras.callbacks.Callback):
    """Sets the rate itself before each batch."""

    def __init__(self, by: str):
        super().__init__()
        self.by = by

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        if self.by == "assign":
            self.model.optimizer.learning_rate.assign(0.3)
        else:
            self.model.optimizer.learning_rate = 0.3


@pytest.mark.parametrize("by", ["setter", "assign"])
def test_a_callback_that_sets_each_steps_rate_acts_or_is_refused(by):
    model, rates = network(), Rates()
    fit(model, [StagedUnfreezing(model, PHASES), Sets(by), rates])
    np.testing.assert_allclose(rates.rates, 0.3, rtol=1e-6)
    model = network()
    with pytest.raises(ftkeras.UserError, match="sets the learning rate"):
        fit(model, [Sets(by), StagedUnfreezing(model, PHASES)])


# ----------------------------------------------------------------------- early stopping


class Keeps(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray]] = []

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.weights.append(self.model.get_weights())


@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping_ends_within_and_between_phases_in_either_order(patience):
    for first in (True, False):
        model, keep = network(), Keeps()
        stop = keras.callbacks.EarlyStopping(
            "loss", patience=patience, min_delta=9.0, restore_best_weights=True
        )
        unfreeze = StagedUnfreezing(
            model, [Phase("all", 2, 0.1, ["all"]), Phase("head", train=["head"])]
        )
        callbacks = [stop, unfreeze] if first else [unfreeze, stop]
        history = fit(model, [*callbacks, keep])
        assert len(history.epoch) == 1 + patience
        assert list(unfreeze.verdicts) == ["all", "head"][:patience]
        assert equal(model.get_weights(), keep.weights[0])


# ------------------------------------------------------------------------------ averages


@pytest.mark.parametrize("on_epoch", [True, False])
def test_swapped_averages_give_the_same_training_in_either_order(on_epoch):
    phases = [Phase("head", 1, 0.1), Phase("all", train=["all"]), Phase("again", train=["head"])]
    results = []
    for first in (True, False):
        model = network(keras.optimizers.SGD(use_ema=True, ema_momentum=0.5))
        unfreeze = StagedUnfreezing(model, phases)
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)
        callbacks = [swap, unfreeze] if first else [unfreeze, swap]
        history = fit(model, callbacks, 3, validation_data=(INPUTS, LABELS))
        assert list(unfreeze.verdicts) == ["head", "all", "again"]
        results.append((model.get_weights(), history.history["val_loss"]))
    assert equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    # Validation saw the averages, which are also what remains.
    final = float(LOSS(LABELS, model(INPUTS)))
    assert results[0][1][-1] == pytest.approx(final, rel=1e-5)


# ------------------------------------------------------------------------ log and watch


def test_logs_name_the_phases_rate(tmp_path):
    model = network()
    unfreeze = StagedUnfreezing(model, PHASES)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    board = keras.callbacks.TensorBoard(tmp_path / "board", write_graph=False)
    fit(model, [unfreeze, log, board, keras.callbacks.TerminateOnNaN()])
    with open(tmp_path / "log.csv") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    written = list((tmp_path / "board" / "train").iterdir())
    steps = [
        float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(written[0]))
        for value in event.summary.value
        if value.tag == "epoch_learning_rate"
    ]
    np.testing.assert_allclose(steps, rates, rtol=1e-6)


def test_terminate_on_nan_ends_the_phase_cleanly():
    model = network()
    unfreeze = StagedUnfreezing(model, PHASES)
    labels = LABELS.astype("float32")
    bad = INPUTS.copy()
    bad[8] = np.nan
    data = {"batch_size": 4, "verbose": 0, "shuffle": False}
    history = model.fit(
        bad, labels, epochs=4, callbacks=[unfreeze, keras.callbacks.TerminateOnNaN()], **data
    )
    assert len(history.epoch) == 1
    assert list(unfreeze.verdicts) == ["head"]


# -------------------------------------------------------------------------- fit's options


def generated() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        for start in range(0, 16, 4):
            yield INPUTS[start : start + 4], LABELS[start : start + 4]


WAYS = {
    "validation_split": lambda: {
        "x": INPUTS, "y": LABELS, "batch_size": 3, "validation_split": 0.25
    },
    "class_weight": lambda: {
        "x": INPUTS, "y": LABELS, "batch_size": 4, "class_weight": {0: 1.0, 1: 2.0, 2: 0.5}
    },
    "sample_weight": lambda: {
        "x": INPUTS, "y": LABELS, "batch_size": 4, "sample_weight": np.linspace(0, 1, 16)
    },
    "generator": lambda: {"x": generated(), "steps_per_epoch": 4},
    "steps_per_epoch": lambda: {
        "x": tf.data.Dataset.from_tensor_slices((INPUTS, LABELS)).batch(4).repeat(),
        "steps_per_epoch": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_phases_count_steps_whatever_fit_is_given(way):
    model, seen = network(), []
    phases = [Phase("head", steps=6, learning_rate=0.1), Phase("all", steps=6, train=["all"])]
    unfreeze = StagedUnfreezing(model, phases, steps_per_epoch=4)

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(unfreeze.phase.name)

    callbacks = [unfreeze, Watch()]
    model.fit(**WAYS[way](), shuffle=False, epochs=unfreeze.epochs, callbacks=callbacks, verbose=0)
    assert seen == ["head"] * 6 + ["all"] * 6
    assert list(unfreeze.verdicts) == ["head", "all"]


class Positions(keras.callbacks.Callback):
    """Keeps the phase of each batch, and how many batches the optimizer counts after it."""

    def __init__(self, unfreeze: StagedUnfreezing):
        super().__init__()
        self.unfreeze, self.seen = unfreeze, []

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        steps = int(keras.ops.convert_to_numpy(self.unfreeze.optimizer.micro_steps))
        self.seen.append((self.unfreeze.phase.name, steps))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_epochs_of_unknown_length_change_phases_between_two_updates():
    model = network(keras.optimizers.SGD(gradient_accumulation_steps=3))
    unfreeze = StagedUnfreezing(model, [Phase("head", 1, 0.1), Phase("all", 2, train=["all"])])
    watch = Positions(unfreeze)
    data = tf.data.Dataset.from_tensor_slices((INPUTS, LABELS)).batch(4)
    data = data.filter(lambda *_: True)
    options = {"callbacks": [unfreeze, watch], "shuffle": False, "verbose": 0}
    model.fit(data, epochs=unfreeze.epochs, **options)
    assert len(watch.seen) == 12
    assert [phase for phase, _ in watch.seen[:5]] == ["head"] * 5
    assert [phase for phase, _ in watch.seen[6:]] == ["all"] * 6
    # A graph may count the batch that was not there, too; its updates follow that count.
    first = next(steps for phase, steps in watch.seen if phase == "all")
    assert first % 3 == 1


def test_an_overflow_does_not_part_an_update_of_two_phases():
    inner = keras.optimizers.SGD(gradient_accumulation_steps=2)
    model = network(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0))
    unfreeze = StagedUnfreezing(model, [Phase("head", 1, 0.1), Phase("all", 1, train=["all"])])
    watch = Positions(unfreeze)
    bad = INPUTS.copy()
    bad[0] = np.inf  # the first batch of each epoch is skipped
    options = {"callbacks": [unfreeze, watch], "shuffle": False, "verbose": 0}
    model.fit(bad, LABELS, batch_size=4, epochs=2, **options)
    assert watch.seen[:6] == [("head", n) for n in (0, 1, 2, 3, 3, 4)]
    assert watch.seen[6:] == [("all", 5), ("all", 6)]


def test_fewer_epochs_and_the_rest_later_are_one_training():
    whole = network()
    fit(whole, [StagedUnfreezing(whole, PHASES)])
    model = network()
    unfreeze = StagedUnfreezing(model, PHASES)
    for begin, end in ((0, 1), (1, 3), (3, 4)):
        fit(model, [unfreeze], end, initial_epoch=begin)
    assert equal(model.get_weights(), whole.get_weights())


def test_more_epochs_than_the_phases_have_end_with_them():
    model = network()
    assert len(fit(model, [StagedUnfreezing(model, PHASES)], epochs=9).epoch) == 4


# ---------------------------------------------------------------------- a loop of one's own


def own_loop(unfreeze: StagedUnfreezing, model: keras.Model) -> list[tuple[str, float]]:
    seen = []
    for epoch in range(unfreeze.epochs):
        for batch, start in enumerate(range(0, 16, 4)):
            unfreeze.move_to(epoch, batch)
            with tf.GradientTape() as tape:
                scores = model(INPUTS[start : start + 4], training=True)
                loss = LOSS(LABELS[start : start + 4], scores)
            weights = model.trainable_variables
            model.optimizer.apply(tape.gradient(loss, weights), weights)
            rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
            seen.append((unfreeze.phase.name, rate))
    unfreeze.close()
    return seen


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_loop_of_ones_own_trains_as_fit_does(name):
    phases = [Phase("head", steps=6, learning_rate=0.1), Phase("all", steps=10, train=["all"])]
    fitted = network(getattr(keras.optimizers, name)())
    by_fit, rates = StagedUnfreezing(fitted, phases, steps_per_epoch=4), Rates()
    fit(fitted, [by_fit, rates])
    model = network(getattr(keras.optimizers, name)())
    unfreeze = StagedUnfreezing(model, phases, steps_per_epoch=4)
    seen = own_loop(unfreeze, model)
    assert [phase for phase, _ in seen] == ["head"] * 6 + ["all"] * 10
    assert [rate for _, rate in seen] == rates.rates
    assert unfreeze.verdicts == by_fit.verdicts
    for ours, theirs in zip(model.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert own_loop(unfreeze, model) == seen  # again, from the first phase


def test_a_loop_of_ones_own_is_audited():
    model = network()
    unfreeze = StagedUnfreezing(model, [Phase("head", 1, 0.1), ALL], steps_per_epoch=4)
    unfreeze.move_to(0, 0)
    model.layers[0].bias.assign_add(np.ones(5))
    with pytest.raises(ftkeras.TrainingError, match="hidden/bias"):
        unfreeze.move_to(1, 0)


def test_until_ends_a_phase_and_restores_its_best_epoch_beside_others():
    model, keep = network(), Keeps()
    until = Until("loss", patience=1, max_epochs=5, min_delta=9.0)
    unfreeze = StagedUnfreezing(model, [Phase("head", until=until, learning_rate=0.1), ALL])
    starts = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if unfreeze.phase.name == "all" and not starts:
                starts.append(self.model.get_weights())

    assert len(fit(model, [unfreeze, keep, Watch()], unfreeze.epochs).epoch) > 3
    assert equal(starts[0], keep.weights[0])
