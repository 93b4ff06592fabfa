"""The head of models of all kinds: its layers if no blocks are given, and its dropout."""

from __future__ import annotations

import keras
import pytest

from ftkeras.backbones import Block
from ftkeras.errors import UserError
from ftkeras.phases import Phase, StagedUnfreezing, weights_of
from ftkeras.phases.heads import head_dropouts
from ftkeras.phases.phase import resolve_phases
from ftkeras.phases.settings import Settings


def dense(name: str) -> keras.layers.Dense:
    return keras.layers.Dense(4, name=name)


def head_of(model: keras.Model) -> list[str]:
    weights = weights_of(model)
    head = {weight.layer.name for weight in weights.all if weight.block is None}
    assert head.isdisjoint(weights.blocks)
    return sorted(head)


# ------------------------------------------------------------------- layers, without blocks


def test_each_of_several_outputs_has_its_last_layer_in_the_head():
    inputs = keras.Input((4,))
    x = dense("trunk")(inputs)
    softmax = keras.layers.Softmax()(dense("classes")(x))
    nested = {"classes": softmax, "boxes": [dense("corner")(x), dense("size")(dense("deep")(x))]}
    assert head_of(keras.Model(inputs, nested)) == ["classes", "corner", "size"]


def test_an_output_from_within_the_trunk_has_its_last_layer_in_the_head_too():
    inputs = keras.Input((4,))
    early = dense("early")(inputs)
    model = keras.Model(inputs, [early, dense("late")(dense("middle")(early))])
    assert head_of(model) == ["early", "late"]


def test_side_by_side_layers_of_one_output_are_both_the_head_and_a_skipped_one_is_not():
    inputs = keras.Input((4,))
    x = dense("trunk")(inputs)
    sides = keras.layers.Concatenate()([dense("left")(x), dense("right")(x)])
    assert head_of(keras.Model(inputs, sides)) == ["left", "right"]
    assert head_of(keras.Model(inputs, x + dense("last")(x))) == ["last"]


def test_outputs_of_nested_models_are_looked_into():
    inner_in = keras.Input((4,), name="x")
    x = dense("inner")(inner_in)
    inner = keras.Model({"x": inner_in}, [dense("one")(x), dense("two")(x)])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner({"x": dense("outer")(inputs)}))
    assert head_of(model) == ["one", "two"]
    heads = [keras.Sequential([dense(f"{n}_1"), dense(f"{n}_2")]) for n in "ab"]
    x = dense("trunk")(inputs)
    assert head_of(keras.Model(inputs, [head(x) for head in heads])) == ["a_2", "b_2"]


class Subclassed(keras.Model):
    """Holds its blocks in a nested model, and calls its layers in an order that nothing shows."""

    def __init__(self) -> None:
        super().__init__()
        self.base = keras.Sequential(
            [
                keras.Input((4,)),
                dense("one"),
                keras.layers.Dropout(0.1, name="within"),
                dense("two"),
            ]
        )
        self.tops = [keras.layers.Dropout(0.2, name="top"), keras.layers.Dropout(0.3, name="side")]
        self.out = dense("out")
        self.other = dense("other")

    def call(self, x, training=None):
        x = self.tops[0](self.base(x, training=training), training=training)
        return {"other": self.other(x), "out": self.out(x)}


def test_a_subclassed_model_with_several_losses_needs_blocks():
    model = Subclassed()
    model(keras.ops.zeros((1, 4)))
    assert head_of(model) == ["other"]  # the last attribute
    model.compile("adam", {"other": "mse", "out": "mse"})
    with pytest.raises(UserError, match="several losses and is not functional.*Give blocks="):
        StagedUnfreezing(model, [Phase("head", 1, 1e-3)])
    blocks = [Block("base", (model.base,))]
    weights = weights_of(model, blocks)
    assert {w.layer.name for w in weights.all if w.block is None} == {"out", "other"}


# ---------------------------------------------------------------------------------- dropout


class Mlp(keras.layers.Layer):
    """A layer with a dropout layer inside."""

    def __init__(self, name: str):
        super().__init__(name=name)
        self.dense = dense("dense")
        self.dropout = keras.layers.Dropout(0.1, name=f"{name}_dropout")

    def call(self, x, training=None):
        return self.dropout(self.dense(x), training=training)


def names(model: keras.Model, blocks: list[Block]) -> list[str]:
    return [layer.name for layer in head_dropouts(model, blocks)]


def test_dropout_within_a_custom_layer_belongs_to_what_the_layer_does():
    inputs = keras.Input((4,))
    block, head = Mlp("block"), Mlp("head")
    model = keras.Model(inputs, head(block(inputs)))
    assert names(model, [Block("block", (block,))]) == ["head_dropout"]
    assert names(model, [Block("inside", (block.dense,))]) == ["head_dropout"]
    assert names(model, []) == ["block_dropout", "head_dropout"]


def test_dropout_that_a_block_depends_on_stays_even_if_the_head_uses_it_too():
    inputs = keras.Input((3, 4))
    shared = keras.layers.Dropout(0.1, name="shared")
    block = dense("block")
    x = keras.layers.SpatialDropout1D(0.3, name="maps")(shared(block(shared(inputs))))
    model = keras.Model(inputs, dense("out")(x))
    assert names(model, [Block("block", (block,))]) == ["maps"]


def test_dropout_of_a_nested_model_whose_inputs_are_a_dict():
    """Such a model is opened like any other: what follows the block in it is the head's."""
    inner_in = keras.Input((4,), name="x")
    block = dense("block")
    x = keras.layers.Dropout(0.1, name="inner")(block(inner_in))
    inner = keras.Model({"x": inner_in}, x)
    inputs = keras.Input((4,))
    x = keras.layers.Dropout(0.2, name="top")(inner({"x": inputs}))
    model = keras.Model(inputs, dense("out")(x))
    assert names(model, [Block("block", (block,))]) == ["inner", "top"]
    assert names(model, [Block("whole", (inner,))]) == ["top"]


def test_dropout_of_a_subclassed_model_is_what_stands_beside_the_blocks():
    model = Subclassed()
    model(keras.ops.zeros((1, 4)))
    inside = [Block("one", (model.base.layers[0],)), Block("two", (model.base.layers[2],))]
    for blocks in (inside, [Block("base", (model.base,))]):
        assert names(model, blocks) == ["top", "side"]


def test_a_phase_that_leaves_dropout_out_has_the_rates_of_before():
    keras.utils.clear_session()
    layers = [keras.layers.Dropout(0.1), dense("hidden"), keras.layers.Dropout(0.2), dense("out")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    settings = Settings(model, blocks=[])
    [plain], [high] = (resolve_phases([Phase("a", 1, 1e-3, dropout=d)]) for d in (None, 0.5))
    rates = []
    for phase in (high, plain):
        settings.apply(phase)
        rates.append([model.layers[i].rate for i in (0, 2)])
    assert rates == [[0.5, 0.5], [0.1, 0.2]]


def test_a_dropout_layer_that_was_made_with_rate_0_is_refused_at_once():
    off = keras.layers.Dropout(0.0, name="off")
    model = keras.Sequential([keras.Input((4,)), dense("hidden"), off, dense("out")])
    model.compile("adam", "mse")
    StagedUnfreezing(model, [Phase("a", 1, 1e-3, dropout=0.0)])
    with pytest.raises(UserError, match="layer 'off' was made with rate 0"):
        StagedUnfreezing(model, [Phase("a", 1, 1e-3, dropout=0.1)])
