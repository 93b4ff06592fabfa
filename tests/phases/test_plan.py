"""The plan against hand-counted numbers, and the traps it warns of."""

from __future__ import annotations

import json

import keras
import pytest

from ftkeras.backbones import Block
from ftkeras.phases import Phase, format_plan, make_plan, weights_of


@pytest.fixture(scope="module")
def model() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="c1")(inputs)  # 112 parameters, (6, 6, 4)
    x = keras.layers.BatchNormalization(name="b1")(x)  # 8, (6, 6, 4)
    x = keras.layers.Conv2D(2, 3, name="c2")(x)  # 74, (4, 4, 2)
    x = keras.layers.Flatten(name="flat")(x)  # (32,)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))  # 66, (2,)
    model.compile(keras.optimizers.Adam(), "mse")
    return model


def plan(model: keras.Model, *phases: Phase, batch_size: int = 32, fragile: bool = True):
    layer = model.get_layer
    blocks = [Block("one", (layer("c1"), layer("b1"))), Block("two", (layer("c2"),))]
    weights = weights_of(model, blocks)
    return make_plan(
        model, weights, phases, steps_per_epoch=10, batch_size=batch_size, fragile=fragile
    )


HEAD = Phase("head", 2, 1e-3, decay="constant")


def test_the_rate_is_sampled_over_the_phase_with_both_ends(model):
    short = Phase("short", 1, 1e-3, decay="linear", warmup=0.0)
    long = Phase("long", 20, 1e-3, decay="linear", warmup=0.0)
    few, many = (phase.rates for phase in plan(model, short, long).phases)
    assert len(few) == 10
    assert len(many) == 60
    assert few[0] == many[0] == 1e-3
    assert list(many) == sorted(many, reverse=True)
    assert many[-1] == plan(model, long).phases[0].last_rate


def test_parameters_steps_and_rates(model):
    head, top, full = plan(
        model,
        HEAD,
        Phase("top", train=["head", "blocks[-1]"], epochs=1, learning_rate=1e-4, layer_decay=0.5),
        Phase("full", train=["all"], steps=25, batch_norm="train", layer_decay=1.0),
    ).phases
    assert [phase.parameters for phase in (head, top, full)] == [66, 66 + 74, 66 + 74 + 8 + 112]
    assert [phase.steps for phase in (head, top, full)] == [20, 10, 25]
    assert [(b.name, b.parameters) for b in head.blocks] == [
        ("one", 120),
        ("two", 74),
        ("head", 66),
    ]
    assert [b.peak_rate for b in top.blocks] == [0.0, pytest.approx(5e-5), 1e-4]
    assert [b.batch_norm for b in top.blocks] == ["inference", "none", "none"]
    assert [b.batch_norm for b in full.blocks] == ["training", "none", "none"]
    assert [b.tensors for b in full.blocks] == [4, 2, 2]


def test_frozen_batch_norm_leaves_its_scale_and_offset_out(model):
    (full,) = plan(model, Phase("full", 1, 1e-4, train=["all"])).phases
    assert full.blocks[0].trained == 112


def test_activations_count_from_the_first_trained_layer(model):
    head, top, full = plan(
        model, HEAD, Phase("top", train=["blocks[-1]"]), Phase("full", train=["all"])
    ).phases
    assert head.activation_bytes == 2 * 4 * 32
    assert top.activation_bytes == (32 + 32 + 2) * 4 * 32
    assert full.activation_bytes == (144 + 144 + 32 + 32 + 2) * 4 * 32


def test_the_plan_is_json_and_a_table(model):
    made = plan(model, HEAD)
    assert json.loads(json.dumps(made.as_json()))["phases"][0]["name"] == "head"
    text = format_plan(made)
    assert text.isascii()
    assert "two    74          frozen" in text


@pytest.mark.parametrize(
    ("phases", "options", "warning"),
    [
        ([Phase("a", 1, 1e-4, train=["blocks[-1]"])], {}, "does not train the head"),
        ([Phase("a", 1, 1e-4, train=["all"])], {}, "Kumar et al. 2022"),
        ([HEAD, Phase("b", 1)], {}, "'b' trains just what 'head' did"),
        ([HEAD, Phase("b", 1, 1e-2, train=["all"])], {}, "trains pretrained weights at 0.01"),
        (
            [HEAD, Phase("b", 1, 1e-4, train=["all"], batch_norm="train")],
            {"batch_size": 8},
            "batches of 8",
        ),
    ],
)
def test_traps_are_named(model, phases, options, warning):
    assert any(warning in found for found in plan(model, *phases, **options).warnings)


def test_a_sound_plan_has_no_warnings(model):
    top = Phase("top", train=["head", "blocks[-1:]"], epochs=1, learning_rate=1e-4)
    assert not plan(model, HEAD, top).warnings
    assert not plan(model, top, fragile=False).warnings
