"""Selectors over small models with hand-written expectations."""

from __future__ import annotations

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftkeras.backbones import Block
from ftkeras.errors import UserError
from ftkeras.phases.selectors import Weights, select, weights_of


@pytest.fixture(scope="module")
def weights() -> Weights:
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for name in ("a", "b", "c"):
        x = keras.layers.Conv2D(2, 1, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    base = keras.Model(inputs, x, name="base")
    outer = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(base(outer))
    model = keras.Model(outer, keras.layers.Dense(2, name="logits")(x))
    blocks = [Block(n, (base.get_layer(f"{n}_conv"), base.get_layer(f"{n}_bn"))) for n in "abc"]
    return weights_of(model, blocks)


def paths(weights: Weights, *selectors: str) -> list[str]:
    return [weight.path for weight in select(weights, selectors)]


A = ["base/a_conv/kernel", "base/a_conv/bias", "base/a_bn/gamma", "base/a_bn/beta"]
B, C = ([path.replace("a_", f"{name}_") for path in A] for name in "bc")
HEAD = ["logits/kernel", "logits/bias"]


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (["head"], HEAD),
        (["all"], A + B + C + HEAD),
        (["none"], []),
        (["blocks[-1]"], C),
        (["blocks[0]"], A),
        (["blocks[-2:]"], B + C),
        (["blocks[:1]"], A),
        (["blocks[::2]"], A + C),
        (["block:b"], B),
        (["re:a_conv"], A[:2]),
        (["re:a_conv$"], A[:2]),
        (["re:^base/[ab]_bn/gamma$"], [A[2], B[2]]),
        (["norm"], A[2:] + B[2:] + C[2:]),
        (["bias"], [A[1], A[3], B[1], B[3], C[1], C[3], HEAD[1]]),
        (["head", "blocks[-1]", "head"], C + HEAD),
    ],
)
def test_selectors(weights, selectors, expected):
    assert paths(weights, *selectors) == expected


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("blocks[5]", "selects nothing"),
        ("blocks[3:]", "selects nothing"),
        ("block:d", "no such block"),
        ("re:xyz", "selects nothing"),
        ("re:(", "not a regular expression"),
        ("blocks[::0]", "cannot be zero"),
        ("heads", "is not understood"),
        ("blocks[__import__('os')]", "is not understood"),
    ],
)
def test_a_selector_that_selects_nothing_lists_the_choices(weights, selector, message):
    with pytest.raises(UserError, match=message) as caught:
        select(weights, ["head", selector])
    if "expression" not in message and "zero" not in message:
        assert "block:NAME with NAME one of: a, b, c." in str(caught.value)


bounds = st.none() | st.integers(-5, 5)


@given(start=bounds, stop=bounds, step=st.none() | st.integers(-3, 3).filter(bool))
def test_slices_are_those_of_python(weights, start, stop, step):
    text = ":".join("" if part is None else str(part) for part in (start, stop, step))
    expected = set("abc"[start:stop:step])
    if not expected:
        with pytest.raises(UserError):
            select(weights, [f"blocks[{text}]"])
    else:
        assert {w.block for w in select(weights, [f"blocks[{text}]"])} == expected


def test_without_blocks_each_weighted_layer_is_one_and_the_last_is_the_head():
    base = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="d1"), keras.layers.Dense(3, name="d2")]
    )
    model = keras.Sequential([keras.Input((4,)), base, keras.layers.Dense(2, name="out")])
    found = weights_of(model)
    assert found.blocks == ("d1", "d2")
    assert [weight.path for weight in select(found, ["head"])] == ["out/kernel", "out/bias"]


def test_a_layer_used_twice_counts_once():
    shared = keras.layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(shared(shared(inputs))))
    assert paths(weights_of(model), "all") == [
        "shared/kernel", "shared/bias", "out/kernel", "out/bias"
    ]  # fmt: skip


def test_freezing_changes_nothing_about_what_can_be_selected(weights):
    kernel = select(weights, ["re:a_conv/kernel"])[0]
    kernel.layer.trainable = False
    assert len(paths(weights, "all")) == 14


def test_a_block_from_another_model_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    stranger = keras.layers.Dense(2, name="stranger")
    stranger.build((None, 4))
    with pytest.raises(UserError, match="'stranger' is not in the model"):
        weights_of(model, [Block("x", (stranger,))])


def test_an_unbuilt_model_is_refused():
    with pytest.raises(UserError, match="has no weights yet"):
        weights_of(keras.Sequential([keras.layers.Dense(3)]))
