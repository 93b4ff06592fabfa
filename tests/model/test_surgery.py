"""Fresh weights, swapped activations and stochastic depth in real backbones."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest

from ftkeras.backbones import Backbone, Block, load_backbone
from ftkeras.errors import UserError
from ftkeras.model.surgery import (
    reinitialize,
    set_stochastic_depth,
    shrink_and_perturb,
    swap_activation,
    swap_activation_in,
)

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def small_backbone(activation: str = "relu", seed: int | None = 7) -> Backbone:
    """Two blocks whose initialisers all carry the same seed, all weights moved from their start."""
    start = {"kernel_initializer": keras.initializers.HeNormal(seed)}
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv1", **start)(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.Activation(activation, name="act1")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", activation=activation, name="conv2", **start)(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv3", **start)(x)
    x = keras.layers.BatchNormalization(name="bn3")(x)
    x = keras.layers.ReLU(name="act3")(x)
    model = keras.Model(inputs, x, name="small")
    for place, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(place).uniform(0.5, 1.5, weight.shape))
    one = Block("one", (model.get_layer("conv1"), model.get_layer("bn1")))
    two = Block("two", tuple(model.get_layer(name) for name in ("conv2", "conv3", "bn3")))
    return Backbone("small", model, "none", 8, 8, (one, two))


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.weights}


# ------------------------------------------------------------------------------- weights


def test_reinitialize_resets_every_weight_of_the_blocks_and_no_other():
    backbone = small_backbone()
    before = values(backbone.model)
    reinitialize(backbone.blocks[-1:], seed=0)
    after = values(backbone.model)
    same = {path for path in before if np.array_equal(before[path], after[path])}
    assert same == {path for path in before if path.startswith(("conv1", "bn1"))}
    for name, expected in {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1}.items():
        np.testing.assert_array_equal(after[f"bn3/{name}"], expected)
    np.testing.assert_array_equal(after["conv2/bias"], 0)
    kernel = after["conv2/kernel"]  # he_normal over 9 * 4 inputs, truncated at two deviations
    assert abs(kernel.std() - np.sqrt(2 / 36)) < 0.05
    assert abs(kernel).max() < 2 * np.sqrt(2 / 36) / 0.87


def test_reinitialize_follows_from_its_seed_alone():
    drawn = []
    for seed, count, own_seed in ((3, 1, 7), (3, 2, None), (4, 1, 7)):
        backbone = small_backbone(seed=own_seed)
        random.seed(len(drawn))
        expected = random.Random(len(drawn)).random()
        reinitialize(backbone.blocks[-count:], seed)
        assert random.random() == expected  # Python's own generator is as it was
        drawn.append(values(backbone.model)["conv2/kernel"])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_layers_whose_initialisers_shared_a_seed_get_different_weights():
    backbone = small_backbone(seed=7)
    reinitialize(backbone.blocks, seed=0)
    after = values(backbone.model)
    assert not np.array_equal(after["conv2/kernel"], after["conv3/kernel"])


def test_layers_made_of_layers_are_initialised_too_and_input_statistics_are_kept():
    normalization = keras.layers.Normalization(mean=2.0, variance=4.0)
    attention = keras.layers.MultiHeadAttention(2, 3)
    inputs = keras.Input((5, 4))
    x = normalization(inputs)
    model = keras.Model(inputs, attention(x, x))
    before = [weight.numpy() for weight in attention.weights]
    reinitialize([Block("all", (normalization, attention))], seed=1)
    kernels = [w for w, old in zip(attention.weights, before, strict=True) if w.ndim == 3]
    assert len(kernels) == 4
    for weight, old in zip(attention.weights, before, strict=True):
        assert np.array_equal(weight.numpy(), old) == (weight.name == "bias")
    np.testing.assert_array_equal(model.predict(2 * np.ones((1, 5, 4)), verbose=0).shape, (1, 5, 4))
    assert float(keras.ops.convert_to_numpy(normalization(np.full((1, 5, 4), 4.0)))[0, 0, 0]) == 1


def test_a_layer_that_cannot_say_how_it_was_built_is_refused():
    class Opaque(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1],), name="kernel")

        def get_build_config(self):
            return None

    layer = Opaque()
    layer.build((None, 3))
    with pytest.raises(UserError, match="'opaque' .* cannot get fresh weights"):
        reinitialize([Block("only", (layer,))], seed=0)


def test_shrink_and_perturb_is_the_weighted_sum_with_a_fresh_start():
    backbone, fresh = small_backbone(), small_backbone()
    backbone.model.trainable = False
    before = values(backbone.model)
    reinitialize(fresh.blocks[-1:], seed=5)
    shrink_and_perturb(backbone.blocks[-1:], shrink=0.4, perturb=0.1, seed=5)
    after, noise = values(backbone.model), values(fresh.model)
    for path in before:
        touched = not path.startswith(("conv1", "bn1")) and "moving" not in path
        expected = 0.4 * before[path] + 0.1 * noise[path] if touched else before[path]
        np.testing.assert_allclose(after[path], expected, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize(("shrink", "perturb"), [(1.5, 0.1), (-0.1, 0.1), (0.4, -1.0)])
def test_shrink_and_perturb_refuses_what_is_out_of_range(shrink, perturb):
    with pytest.raises(UserError, match="shrink_and_perturb: "):
        shrink_and_perturb([], shrink=shrink, perturb=perturb, seed=0)


# --------------------------------------------------------------------------- activations


def test_a_swap_computes_what_a_model_built_with_the_new_activation_does():
    backbone = small_backbone("relu")
    expected = small_backbone("swish").model  # all but its last layer, a ReLU
    expected = keras.Model(expected.input, keras.ops.silu(expected.layers[-2].output))
    swapped, _, count = swap_activation(backbone.model, "relu", "swish")
    assert count == 3
    assert [layer.name for layer in swapped.layers] == [old.name for old in backbone.model.layers]
    assert values(swapped).keys() == values(backbone.model).keys()
    for path, value in values(swapped).items():
        np.testing.assert_array_equal(value, values(backbone.model)[path])
    np.testing.assert_allclose(
        swapped.predict(IMAGES, verbose=0), expected.predict(IMAGES, verbose=0), rtol=1e-6
    )


def test_a_swap_leaves_the_given_model_as_it_was():
    backbone = small_backbone("relu")
    before = backbone.model.predict(IMAGES, verbose=0)
    swapped, *_ = swap_activation(backbone.model, "relu", "tanh")
    swapped.get_layer("conv1").kernel.assign_add(keras.ops.ones((3, 3, 3, 4)))
    np.testing.assert_array_equal(backbone.model.predict(IMAGES, verbose=0), before)


def test_nested_models_wrapped_layers_and_operations_are_reached():
    inner = keras.Sequential(
        [keras.Input((5, 4)), keras.layers.Dense(4, activation="relu"), keras.layers.ReLU()]
    )
    inputs = keras.Input((5, 4))
    x = keras.ops.relu(inner(inputs))
    x = keras.layers.Bidirectional(keras.layers.LSTM(3, activation="relu"))(x)
    outer = keras.Model(inputs, keras.layers.Dense(2)(x))
    swapped, _, count = swap_activation(outer, "relu", "silu")
    assert count == 5  # two in the nested model, the operation, and the LSTM in both directions
    with pytest.raises(UserError, match=r"has no 'relu'.* It has: silu \(5\)\."):
        swap_activation(swapped, "relu", "gelu")
    for old, new in zip(outer.weights, swapped.weights, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())


def test_a_backbone_keeps_its_blocks_and_the_swapped_model_saves_and_loads(tmp_path):
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=96)
    swapped, count = swap_activation_in(backbone, "relu6", "swish")
    assert count == 35
    assert [b.name for b in swapped.blocks] == [b.name for b in backbone.blocks]
    own = {id(layer) for layer in swapped.model.layers}
    for block, old in zip(swapped.blocks, backbone.blocks, strict=True):
        assert [layer.name for layer in block.layers] == [layer.name for layer in old.layers]
        assert all(id(layer) in own for layer in block.layers)
    for old, new in zip(backbone.model.weights, swapped.model.weights, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    assert swapped.model.get_layer("block_2_add").output.shape[-1] == 24  # one graph only
    images = np.random.default_rng(0).uniform(-1, 1, (2, 96, 96, 3)).astype("float32")
    features, before = (np.asarray(m.model(images)) for m in (swapped, backbone))
    assert np.abs(features - before).max() > 1e-3
    swapped.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(images)), features)


def test_an_unknown_activation_and_one_that_is_not_there_are_refused():
    model = small_backbone().model
    with pytest.raises(UserError, match="no Keras activation 'swisch'. Did you mean 'swish'"):
        swap_activation(model, "relu", "swisch")
    with pytest.raises(UserError, match=r"small has no 'relu6'.*'relu'.* It has: relu \(3\)\."):
        swap_activation(model, "relu6", "swish")


# ---------------------------------------------------------------------- stochastic depth


def toy_residual(drop: list[keras.layers.Layer]) -> Backbone:
    inputs = x = keras.Input((8, 8, 3))
    for place, layer in enumerate(drop):
        branch = keras.layers.Conv2D(3, 1, name=f"conv{place}", kernel_initializer="ones")(x)
        x = x + layer(branch)
    model = keras.Model(inputs, x)
    blocks = tuple(Block(layer.name, (layer,)) for layer in model.layers if layer.weights)
    return Backbone("toy", model, "none", 8, 8, blocks)


def test_branches_are_dropped_for_whole_examples_at_the_set_rate(tmp_path):
    rows = (None, 1, 1, 1)
    backbone = toy_residual([keras.layers.Dropout(0.0, noise_shape=rows, name="d")])
    dropping = set_stochastic_depth(backbone, 0.25, seed=3)
    dropping.model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    ones = np.ones((2000, 8, 8, 3), "float32")
    for model in (dropping.model, loaded):
        outputs = keras.ops.convert_to_numpy(model(ones, training=True))
        per_example = outputs.reshape(2000, -1)
        assert np.allclose(per_example.min(1), per_example.max(1))
        kept = np.isclose(per_example[:, 0], 1 + 3 / 0.75)  # the branch is 3, over 0.75 when kept
        assert np.allclose(per_example[~kept, 0], 1)
        assert abs(kept.mean() - 0.75) < 0.04  # four deviations of 2,000 draws
        np.testing.assert_allclose(model(ones, training=False), 4)
    kernel = dropping.blocks[0].layers[0].kernel
    assert kernel is dropping.model.get_layer("conv0").kernel


def test_rates_rise_linearly_to_the_last_branch_and_ordinary_dropout_is_left_alone():
    rows = (None, 1, 1, 1)
    layers = [keras.layers.Dropout(0.9, noise_shape=rows, name=f"d{i}") for i in range(4)]
    backbone = toy_residual([*layers, keras.layers.Dropout(0.9, name="ordinary")])
    model = set_stochastic_depth(backbone, 0.2).model
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.15, 0.2, 0.9])


@pytest.mark.parametrize(
    ("name", "count"),
    [("EfficientNetB0", 9), pytest.param("ConvNeXtTiny", 18, marks=pytest.mark.slow)],
)
def test_backbones_with_a_place_for_it(name, count):
    backbone = load_backbone(name, weights="none", image_size=32)
    dropping = set_stochastic_depth(backbone, 0.3)
    layers = [
        layer
        for layer in dropping.model.layers
        if isinstance(layer, keras.layers.Dropout) and layer.noise_shape == (None, 1, 1, 1)
    ]
    rates = [layer.rate for layer in layers]
    np.testing.assert_allclose(rates, 0.3 * np.arange(1, count + 1) / count)
    assert len({layer.seed for layer in layers}) == count
    assert [b.name for b in dropping.blocks] == [b.name for b in backbone.blocks]
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    plain, changed = (np.asarray(m.model(images, training=False)) for m in (backbone, dropping))
    np.testing.assert_array_equal(changed, plain)


def test_a_backbone_without_it_and_a_rate_out_of_range_are_refused():
    backbone = small_backbone()
    with pytest.raises(UserError, match="stochastic_depth: small has none"):
        set_stochastic_depth(backbone, 0.1)
    with pytest.raises(UserError, match="from 0 to below 1, got 1.0"):
        set_stochastic_depth(backbone, 1.0)
