"""Rates and step counts per weight, for every optimizer that Keras has."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest

from ftkeras.errors import UserError
from ftkeras.phases import Phase, weights_of
from ftkeras.phases.phase import resolve_phases
from ftkeras.phases.rates import WeightRates, rate_shares
from ftkeras.phases.selectors import select

OPTIMIZERS = {
    name: kind
    for name, kind in vars(keras.optimizers).items()
    if inspect.isclass(kind)
    and issubclass(kind, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
}
GRADIENTS = np.random.default_rng(0).normal(size=(16, 3, 2)).astype("float32")


def variable() -> keras.Variable:
    return keras.Variable(np.full((3, 2), 2.0, "float32"))


def steps(optimizer, weights, gradients) -> None:
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)] * len(weights), weights)


def loss_scaled(kind, **options):
    return keras.optimizers.LossScaleOptimizer(kind(0.01, **options), initial_scale=1.0)


VARIANTS = {
    "plain": lambda kind: kind(0.01),
    "accumulating": lambda kind: kind(0.01, gradient_accumulation_steps=2),
    "clipping": lambda kind: kind(0.01, clipnorm=0.5),
    "decaying": lambda kind: kind(0.01, weight_decay=0.1),
    "loss scaling": loss_scaled,
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_weight_that_starts_late_moves_as_in_a_new_optimizer(name, variant):
    make = VARIANTS[variant]
    early, late, alone = variable(), variable(), variable()
    optimizer = make(OPTIMIZERS[name])
    optimizer.build([early, late])
    rates = WeightRates(optimizer)
    rates.set({id(early): 1.0})
    steps(optimizer, [early], GRADIENTS[:10])
    rates.set({id(early): 1.0, id(late): 1.0})
    steps(optimizer, [early, late], GRADIENTS[10:])
    fresh = make(OPTIMIZERS[name])
    fresh.build([alone])
    steps(fresh, [alone], GRADIENTS[10:])
    if name == "Nadam":  # its product of momenta is one number for all weights
        assert np.abs(late.numpy() - 2).max() <= np.abs(alone.numpy() - 2).max() * 1.05
    else:
        np.testing.assert_allclose(late.numpy(), alone.numpy(), rtol=1e-5, atol=1e-6)


def test_the_first_step_of_a_late_weight_is_adams_first_step_and_without_us_three_times_that():
    def first_step(ours: bool) -> float:
        early, late = variable(), variable()
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build([early, late])
        rates = WeightRates(optimizer) if ours else None
        if rates:
            rates.set({id(early): 1.0})
        for _ in range(3000):
            optimizer.iterations.assign_add(1)
        if rates:
            rates.set({id(early): 1.0, id(late): 1.0})
        steps(optimizer, [early, late], GRADIENTS[:1])
        return float(np.abs(late.numpy() - 2).max())

    assert first_step(ours=True) == pytest.approx(0.01, rel=1e-3)
    assert first_step(ours=False) == pytest.approx(0.032, rel=0.05)


def test_a_weight_that_paused_goes_on_with_its_own_count():
    ours, other = variable(), variable()
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build([ours, other])
    rates = WeightRates(optimizer)
    rates.set({id(ours): 1.0})
    steps(optimizer, [ours], GRADIENTS[:2])
    rates.set({id(other): 1.0})
    steps(optimizer, [other], GRADIENTS[2:10])
    rates.set({id(ours): 1.0})
    steps(optimizer, [ours], GRADIENTS[10:12])
    unbroken = variable()
    plain = keras.optimizers.Adam(0.01)
    plain.build([unbroken])
    steps(plain, [unbroken], np.concatenate([GRADIENTS[:2], GRADIENTS[10:12]]))
    np.testing.assert_allclose(ours.numpy(), unbroken.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_share_is_a_smaller_learning_rate_and_decay_keeps_in_proportion(name):
    shared, alone = variable(), variable()
    optimizer = OPTIMIZERS[name](0.01, weight_decay=0.3)
    optimizer.build([shared])
    WeightRates(optimizer).set({id(shared): 0.25})
    plain = OPTIMIZERS[name](0.0025, weight_decay=0.3)
    plain.build([alone])
    steps(optimizer, [shared], GRADIENTS[:5])
    steps(plain, [alone], GRADIENTS[:5])
    np.testing.assert_allclose(shared.numpy(), alone.numpy(), rtol=1e-5)
    assert not np.allclose(shared.numpy(), 2)


def test_a_second_callback_does_not_stack_on_the_first():
    weight = variable()
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build([weight])
    WeightRates(optimizer).set({id(weight): 0.5})
    WeightRates(optimizer).set({id(weight): 0.5})
    steps(optimizer, [weight], [np.ones((3, 2), "float32")])
    np.testing.assert_allclose(weight.numpy(), 1.95)


def test_the_optimizer_saves_as_if_we_were_not_there(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)
    WeightRates(model.optimizer).set({id(v): 0.5 for v in model.trainable_variables})
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_shares_by_layer_decay_and_by_selector():
    model = keras.Sequential(
        [keras.Input((3,)), *(keras.layers.Dense(3, name=name) for name in ("a", "b", "head"))]
    )
    weights = weights_of(model)
    everything = select(weights, ["all"])

    def shares(**options) -> dict[str, float]:
        (phase,) = resolve_phases([Phase("p", 1, 1e-3, train=["all"], **options)])
        found = rate_shares(weights, phase, everything)
        return {w.path: pytest.approx(found[id(w.variable)]) for w in everything}

    assert shares(layer_decay=0.5) == {
        "a/kernel": 0.25, "a/bias": 0.25, "b/kernel": 0.5, "b/bias": 0.5,
        "head/kernel": 1.0, "head/bias": 1.0,
    }  # fmt: skip
    assert shares(layer_decay=0.5, rates={"block:a": 2e-3, "re:a/bias": 1e-4}) == {
        "a/kernel": 2.0, "a/bias": 0.1, "b/kernel": 0.5, "b/bias": 0.5,
        "head/kernel": 1.0, "head/bias": 1.0,
    }  # fmt: skip
    (only_head,) = resolve_phases([Phase("p", 1, 1e-3, rates={"block:a": 1e-4})])
    with pytest.raises(UserError, match="names nothing that this phase trains"):
        rate_shares(weights, only_head, select(weights, ["head"]))
