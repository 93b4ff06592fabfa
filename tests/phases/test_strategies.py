"""Named strategies written out, and the choice of blocks by relative gradient."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from ftkeras.config.schema import Config, StrategyConfig
from ftkeras.errors import UserError
from ftkeras.model.lora import add_lora
from ftkeras.phases import weights_of
from ftkeras.phases.selectors import Weights, select
from ftkeras.phases.strategies import (
    STRATEGIES,
    Setting,
    expand,
    phases_as_yaml,
    relative_gradients,
)


def model(sizes: str = "abcdef", norm: bool = False) -> keras.Model:
    layers = [keras.layers.Dense(3, name=name) for name in sizes]
    layers += [keras.layers.LayerNormalization()] if norm else []
    return keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2, name="head")])


def setting(
    epochs: int = 10,
    examples: int = 2000,
    weights: Weights | None = None,
    from_floor: bool = False,
) -> Setting:
    return Setting(
        StrategyConfig(
            strategy="auto", epochs=epochs, learning_rate=1e-2, fine_rate=1e-3, last_n=2
        ),
        weights=weights or weights_of(model()),
        examples=examples,
        relative_gradients=lambda: {"a": 0.1, "b": 5.0, "c": 0.2, "d": 7.0, "e": 0.3, "f": 3.0},
        from_floor=from_floor,
    )


def told(name: str, **options) -> list[tuple]:
    phases = expand(name, setting(**options)).phases
    return [(list(phase.train or ()), phase.epochs, phase.learning_rate) for phase in phases]


HEAD5 = (["head"], 5, 1e-2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear_probe", [(["head"], 10, 1e-2)]),
        ("full", [(["all"], 10, 1e-3)]),
        ("lp_ft", [HEAD5, (["all"], 5, 1e-3)]),
        ("last_n", [HEAD5, (["head", "blocks[-2:]"], 5, 1e-3)]),
        ("bitfit", [HEAD5, (["head", "bias"], 5, 1e-3)]),
        ("norm_only", [HEAD5, (["head", "norm"], 5, 1e-3)]),
        ("surgical", [HEAD5, (["head", "block:b", "block:d", "block:f"], 5, 1e-3)]),
        ("lora", [HEAD5, (["head", "lora"], 5, 1e-2)]),
        (
            "lora_then_full",
            [(["head"], 3, 1e-2), (["head", "lora"], 3, 1e-2), (["all", "base"], 4, 1e-3)],
        ),
    ],
)
def test_what_each_strategy_is(name, expected):
    assert told(name) == expected


def test_gradual_adds_a_block_an_epoch_and_spends_what_is_left_on_the_last():
    assert told("gradual", epochs=4) == [
        (["head"], 1, 1e-2),
        (["head", "blocks[-1:]"], 1, 1e-3),
        (["head", "blocks[-2:]"], 1, 1e-3),
        (["head", "blocks[-3:]"], 1, 1e-3),
    ]
    assert [epochs for _, epochs, _ in told("gradual", epochs=10)] == [1] * 6 + [4]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("epochs", [2, 3, 10])
def test_every_strategy_uses_its_epochs_and_selects_something(name, epochs):
    network = model(norm=True)
    add_lora(network, rank=1, targets="a")
    weights, epochs = weights_of(network), max(epochs, 3 if name == "lora_then_full" else 2)
    phases = expand(name, setting(epochs=epochs, weights=weights)).phases
    assert sum(phase.epochs or 0 for phase in phases) == epochs
    for phase in phases:
        assert select(weights, phase.train or ())


def test_auto_says_why():
    for examples in (50, 500, 5000):
        expansion = expand("auto", setting(examples=examples))
        assert f"because there are {examples} examples to train on" in expansion.reasons[0]
    assert told("auto", examples=50) == told("gradual")
    assert told("auto", examples=500) == told("full")
    for examples in (50, 5000):
        at_once = told("auto", examples=examples, from_floor=True)
        assert at_once == [(["head", "blocks[-2:]"], 10, 1e-3)]
    assert "starts from the floor" in expand("auto", setting(from_floor=True)).reasons[0]


def test_too_few_epochs_are_refused():
    with pytest.raises(UserError, match="needs at least 2 epochs; got 1"):
        expand("lp_ft", setting(epochs=1))


def test_the_schema_offers_exactly_these():
    names = StrategyConfig.model_json_schema()["properties"]["strategy"]["enum"]
    assert set(names) == set(STRATEGIES)


def test_the_printed_phases_are_a_config():
    text = phases_as_yaml(expand("surgical", setting()).phases)
    tree = {"data": {"source": "starter"}, "backbone": {"name": "VGG16"}, **yaml.safe_load(text)}
    config = Config.model_validate(tree)
    assert config.phases[1].train == ["head", "block:b", "block:d", "block:f"]


def test_relative_gradients_are_norms_over_norms_and_change_nothing():
    net = model("ab")
    weights = weights_of(net)
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(8, 3)), random.normal(size=(8, 2))
    batches = tf.data.Dataset.from_tensors((inputs.astype("f4"), targets.astype("f4")))
    before = net.get_weights()
    found = relative_gradients(net, weights, batches, keras.losses.MeanSquaredError())
    a, b = net.get_layer("a").kernel.numpy(), net.get_layer("b").kernel.numpy()
    head = net.get_layer("head").kernel.numpy()
    error = 2 * (inputs @ a @ b @ head - targets) / targets.size  # biases are zero
    gradient = (inputs @ a).T @ (error @ head.T)
    bias = (error @ head.T).sum(axis=0)
    expected = np.sqrt((gradient**2).sum() + (bias**2).sum()) / np.linalg.norm(b)
    assert found["b"] == pytest.approx(expected, rel=1e-4)
    for one, two in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
