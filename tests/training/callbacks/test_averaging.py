"""Averages of weights against NumPy, through phases, swaps, resumes and replicas."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.backbones import Block
from ftkeras.errors import UserError
from ftkeras.phases import Phase, StagedUnfreezing
from ftkeras.training.callbacks.averaging import AveragedWeights

IMAGES = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
LABELS = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")


def small_model(accumulate: int | None = None) -> tuple[keras.Model, list[Block]]:
    """A nested block with batch norm and dropout under a head, compiled."""
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="dense"),
            keras.layers.BatchNormalization(momentum=0.5, name="norm"),
            keras.layers.Dropout(0.1, seed=0),
        ],
        name="base",
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(base(inputs)))
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=accumulate)
    model.compile(optimizer, loss="mse", jit_compile=False)
    return model, [Block("base", tuple(base.layers[:2]))]


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy().copy() for weight in model.weights}


class Trail(keras.callbacks.Callback):
    """The weights before training and after every step, and those that validation sees."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, np.ndarray]] = []
        self.validated: list[dict[str, np.ndarray]] = []

    def on_train_begin(self, logs: object = None) -> None:
        self.steps = self.steps or [values(self.model)]

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.steps.append(values(self.model))

    def on_test_begin(self, logs: object = None) -> None:
        self.validated.append(values(self.model))


def by_hand(trail: list[np.ndarray], decay: float) -> np.ndarray:
    """The average of a weight from its first value on, in float64."""
    average = trail[0].astype("float64")
    for t, value in enumerate(trail[1:]):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * value
    return average


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback, **options: object) -> None:
    options = {"epochs": 1, **options}
    model.fit(
        IMAGES, LABELS, batch_size=2, shuffle=False, verbose=0, callbacks=[*callbacks], **options
    )


def test_averages_are_those_of_numpy_for_weights_and_statistics():
    model, _ = small_model()
    ema, trail = AveragedWeights(model, decay=0.3), Trail()
    fit(model, ema, trail)
    raw = values(model)
    with ema.swapped():
        averaged = values(model)
    assert len(averaged) == 8
    for path, value in averaged.items():
        expected = by_hand([step[path] for step in trail.steps], 0.3)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7, err_msg=path)
        assert not np.array_equal(value, raw[path])
        np.testing.assert_array_equal(values(model)[path], raw[path])


def test_a_weight_is_averaged_from_its_value_when_it_is_unfrozen():
    model, blocks = small_model()
    phases = [
        Phase("head", epochs=1, learning_rate=0.1),
        Phase("all", train=["all"], epochs=1, learning_rate=0.1, batch_norm="train"),
        Phase("again", epochs=1, learning_rate=0.1),
    ]
    unfreeze = StagedUnfreezing(model, phases, blocks=blocks)
    ema, trail = AveragedWeights(model, decay=0.6), Trail()
    seen = {}

    class AfterHead(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            if epoch == 0:
                with ema.swapped():
                    seen.update(values(model))

    fit(model, ema, unfreeze, trail, AfterHead(), epochs=2)
    ema.swap()
    assert set(unfreeze.verdicts) == {"head", "all"}
    for path in values(model):
        begins = 0 if "logits" in path else 8  # eight steps an epoch
        expected = by_hand([step[path] for step in trail.steps[begins:]], 0.6)
        np.testing.assert_allclose(values(model)[path], expected, rtol=1e-5, atol=1e-7)
        if begins:  # while frozen, the average is the value, to the bit
            np.testing.assert_array_equal(seen[path], trail.steps[0][path])


def test_the_average_of_what_was_frozen_again_goes_on_to_its_value_and_the_audit_passes():
    model, blocks = small_model()
    phases = [
        Phase("all", train=["all"], epochs=1, learning_rate=0.1, batch_norm="train"),
        Phase("head", epochs=1, learning_rate=0.1),
    ]
    unfreeze = StagedUnfreezing(model, phases, blocks=blocks)
    ema, trail = AveragedWeights(model, decay=0.6), Trail()
    fit(model, unfreeze, ema, trail, epochs=2, validation_data=(IMAGES, LABELS))
    assert set(unfreeze.verdicts) == {"all", "head"}
    ema.swap()
    for path, value in values(model).items():
        expected = by_hand([step[path] for step in trail.steps], 0.6)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


def test_validation_measures_the_averages_and_training_goes_on_from_the_weights():
    model, _ = small_model()
    ema, trail = AveragedWeights(model, decay=0.5), Trail()
    fit(model, ema, trail, epochs=2, validation_data=(IMAGES, LABELS))
    plain, _ = small_model()
    plain_trail = Trail()
    fit(plain, plain_trail, epochs=2, validation_data=(IMAGES, LABELS))
    for (path, value), expected in zip(
        trail.steps[-1].items(), plain_trail.steps[-1].values(), strict=True
    ):
        np.testing.assert_array_equal(value, expected, err_msg=path)
        average = by_hand([step[path] for step in trail.steps[:9]], 0.5)
        np.testing.assert_allclose(trail.validated[0][path], average, rtol=1e-5, atol=1e-7)


def test_an_interrupted_validation_leaves_the_way_back():
    model, _ = small_model()
    ema = AveragedWeights(model, decay=0.5)

    class Interrupt(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch: int, logs: object = None) -> None:
            raise KeyboardInterrupt

    trail = Trail()
    with pytest.raises(KeyboardInterrupt):
        fit(model, ema, trail, Interrupt(), validation_data=(IMAGES, LABELS))
    assert not np.array_equal(values(model)["logits/kernel"], trail.steps[-1]["logits/kernel"])
    ema.unswap()
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, trail.steps[-1][path])


def test_with_accumulation_an_update_is_the_optimizer_s():
    model, _ = small_model(accumulate=4)
    ema, trail = AveragedWeights(model, decay=0.5), Trail()
    fit(model, ema, trail)
    path = next(path for path in trail.steps[0] if path.endswith("logits/kernel"))
    with ema.swapped():
        averaged = values(model)[path]
    expected = by_hand([trail.steps[step][path] for step in (0, 4, 8)], 0.5)
    np.testing.assert_allclose(averaged, expected, rtol=1e-6)


def test_a_resumed_run_ends_with_the_same_averages(tmp_path):
    whole, blocks = small_model()
    phases = [
        Phase("head", epochs=1, learning_rate=0.1, decay="constant"),
        Phase("all", train=["all"], epochs=1, learning_rate=0.1, batch_norm="train"),
    ]
    ema = AveragedWeights(whole, decay=0.9)
    fit(whole, StagedUnfreezing(whole, phases, blocks=blocks), ema, epochs=2)

    first, blocks = small_model()
    part = AveragedWeights(first, decay=0.9)
    fit(first, StagedUnfreezing(first, phases, blocks=blocks), part)
    with part.swapped():  # the state is the same wherever the averages are
        np.savez(tmp_path / "averages.npz", **part.state())
    second, blocks = small_model()
    for new, old in zip(second.variables, first.variables, strict=True):
        new.assign(old)  # the state of the dropout's random numbers too
    rest = AveragedWeights(second, decay=0.9)
    with np.load(tmp_path / "averages.npz", allow_pickle=False) as state:
        rest.load_state(state)
    unfreeze = StagedUnfreezing(second, phases, blocks=blocks)
    unfreeze.prepare()
    for new, old in zip(second.optimizer.variables, first.optimizer.variables, strict=True):
        new.assign(old)
    fit(second, unfreeze, rest, epochs=2, initial_epoch=1)
    expected = ema.state()
    assert rest.state().keys() == expected.keys()
    assert int(expected["since/base/dense/kernel"]) == 8
    for key, value in expected.items():
        np.testing.assert_array_equal(rest.state()[key], value, err_msg=key)


def test_a_state_of_another_model_is_refused():
    model, _ = small_model()
    state = {"updates": np.asarray(1), "average/x/kernel": np.ones((2, 2)), "since/x/kernel": 0}
    with pytest.raises(UserError, match="'x/kernel'"):
        AveragedWeights(model).load_state(state)
    with pytest.raises(UserError, match="decay is from 0 to below 1"):
        AveragedWeights(model, decay=1.0)


def test_two_replicas_have_the_averages_of_their_weights(two_replicas):
    # One device reduces: two strategies with collectives in one process get in each other's way.
    with two_replicas.scope():
        model, blocks = small_model()
    phases = [
        Phase("head", epochs=1, learning_rate=0.1),
        Phase("all", train=["all"], epochs=1, learning_rate=0.1, batch_norm="train"),
    ]
    unfreeze = StagedUnfreezing(model, phases, blocks=blocks)
    ema, trail = AveragedWeights(model, decay=0.6), Trail()
    fit(model, unfreeze, ema, trail, epochs=2, validation_data=(IMAGES, LABELS))
    kernel = model.get_layer("logits").kernel
    with ema.swapped():
        for path, value in values(model).items():
            begins = 0 if "logits" in path else 8
            expected = by_hand([step[path] for step in trail.steps[begins:]], 0.6)
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7, err_msg=path)
        first, second = (replica.numpy() for replica in kernel.value.values)
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(kernel.numpy(), trail.steps[-1][kernel.path])
