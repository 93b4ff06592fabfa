"""Weights that their owner froze, by `enable_lora` or one flag, beside those that a phase froze."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import keras_hub
import numpy as np
import pytest

import ftkeras
from ftkeras.phases.selectors import select, weights_of

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(8, 4, 4, 2)).astype("float32")
TARGETS = RANDOM.normal(size=(8, 3)).astype("float32")


def small_model() -> keras.Model:
    """Returns a model with blocks `conv`, `norm`, `attention`, `einsum` and the head `logits`."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.Reshape((4, 4))(keras.layers.BatchNormalization(name="norm")(x))
    x = keras.layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = keras.layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d", name="einsum")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    model.compile(keras.optimizers.Adam(), "mse", jit_compile=False)
    return model


def train(model: keras.Model, phases: Sequence[ftkeras.Phase]) -> ftkeras.StagedUnfreezing:
    unfreeze = ftkeras.StagedUnfreezing(model, phases)
    model.fit(
        IMAGES, TARGETS, batch_size=4, epochs=unfreeze.epochs, callbacks=[unfreeze], verbose=0
    )
    return unfreeze


def paths(model: keras.Model) -> list[str]:
    return [weight.path for weight in weights_of(model).all]


ALL = ftkeras.Phase("all", epochs=1, learning_rate=1e-2, train=["all"])
BIASES = ftkeras.Phase("biases", epochs=1, learning_rate=1e-2, train=["bias"])


def test_lora_bases_of_all_kinds_of_layers_stay_and_their_factors_train():
    model = small_model()
    attention = model.get_layer("attention")
    layers = [model.get_layer("conv"), attention.query_dense, attention.value_dense]
    layers += [model.get_layer("einsum"), model.get_layer("logits")]
    bases = [layer.variables[0] for layer in layers]
    for layer in layers:
        layer.enable_lora(2)
    factors = [x for layer in layers for x in layer.variables if x.name.startswith("lora_")]
    before = [x.numpy() for x in (*bases, *factors)]
    unfreeze = train(model, [BIASES, ALL])
    moved = [
        not np.array_equal(was, now) for was, now in zip(before, (*bases, *factors), strict=True)
    ]
    assert moved == [False] * 5 + [True] * 10
    assert not any(base.trainable for base in bases)
    assert unfreeze.verdicts["all"].frozen == 5 + 4  # bases; all of the batch normalisation
    # The bases' layers train, so that only a mark or the rank tells that they stay.
    assert paths(model) == [weight.path for weight in unfreeze.plan.weights.all]


def test_lora_of_a_keras_hub_backbone():
    """Its `enable_lora` freezes whole layers too; which of those train is for the phase to say."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=6,
    )
    model = keras_hub.models.BertTextClassifier(backbone=backbone, num_classes=3)
    backbone.enable_lora(4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, jit_compile=False)
    before = {variable.path: variable.numpy() for variable in model.weights}
    phases = [
        ftkeras.Phase("factors", 2, 1e-2, train=["head", "re:lora_"]),
        ftkeras.Phase("layer", 1, 1e-2, train=["block:transformer_layer_0"]),
    ]
    unfreeze = ftkeras.StagedUnfreezing(model, phases[:1])
    tokens = RANDOM.integers(0, 20, (8, 6))
    inputs = {"token_ids": tokens, "segment_ids": 0 * tokens, "padding_mask": 1 + 0 * tokens}
    labels = np.arange(8) % 3
    model.fit(inputs, labels, epochs=2, callbacks=[unfreeze], verbose=0, shuffle=False)
    moved = [v.name for v in model.weights if not np.array_equal(before[v.path], v.numpy())]
    assert sorted(moved) == sorted(["lora_kernel_a", "lora_kernel_b"] * 2 + ["kernel", "bias"])
    names = [w.path.split("/")[-2:] for w in select(weights_of(model), phases[1].train)]
    assert ["query", "bias"] in names and ["key", "kernel"] in names
    assert ["query", "kernel"] not in names and ["value", "kernel"] not in names


def test_what_phases_froze_can_be_selected_again_and_what_its_owner_froze_cannot():
    model = small_model()
    everything = paths(model)
    owned = [model.get_layer("einsum").kernel, model.get_layer("norm").gamma]
    for variable in owned:
        variable.trainable = False
    without = [path for path in everything if path not in ("einsum/kernel", "norm/gamma")]
    assert paths(model) == without
    for phases in ([BIASES], [ALL], [BIASES]):  # each leaves other flags behind
        before = [variable.numpy() for variable in owned]
        model.compile(keras.optimizers.Adam(), "mse", jit_compile=False)
        unfreeze = train(model, phases)
        assert paths(model) == without
        assert not any(variable.trainable for variable in owned)
        for variable, was in zip(owned, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), was)
        assert not unfreeze.verdicts[phases[0].name].drifted
    for variable in owned:
        variable.trainable = True  # its owner changed their mind
    assert paths(model) == everything


def test_a_frozen_layer_is_for_phases_to_train():
    model = small_model()
    everything = paths(model)
    model.get_layer("einsum").trainable = False
    model.get_layer("attention").trainable = False
    assert paths(model) == everything


@pytest.mark.parametrize("change", ["lora", "flag"])
def test_a_weight_frozen_after_the_callback_was_made_is_an_error_before_training(change):
    model = small_model()
    layer = model.get_layer("logits")
    phases = [ftkeras.Phase("a", 1, 1e-2, train=["block:conv"]), ALL]
    phases = phases if change == "lora" else phases[1:]
    unfreeze = ftkeras.StagedUnfreezing(model, phases)
    if change == "lora":
        layer.enable_lora(2)
    else:
        layer.kernel.trainable = False
    before = model.get_weights()
    with pytest.raises(ftkeras.UserError, match="'logits/kernel' was frozen .* Do that first"):
        model.fit(IMAGES, TARGETS, callbacks=[unfreeze], verbose=0)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
