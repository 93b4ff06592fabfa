"""A phase's dropout is that of the head, however the model is put together."""

from __future__ import annotations

from collections.abc import Iterator

import keras

import ftkeras

PHASE = ftkeras.Phase("only", epochs=1, learning_rate=1e-3, train=["head"], dropout=0.5)


def rates_in_the_phase(model: keras.Model, blocks: tuple[ftkeras.Block, ...]) -> dict[str, float]:
    """Returns each dropout layer's rate once the phase has begun, nested ones too."""
    model.compile("adam", "mse", jit_compile=False)
    unfreeze = ftkeras.StagedUnfreezing(model, [PHASE], blocks=blocks)
    unfreeze.set_model(model)  # as `fit` does, without the seconds of tracing a large model
    unfreeze.on_train_begin()
    unfreeze.on_epoch_begin(0)
    return {layer.name: layer.rate for layer in dropouts(model)}


def dropouts(model: keras.Model) -> Iterator[keras.layers.Dropout]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from dropouts(layer)
        elif isinstance(layer, keras.layers.Dropout):
            yield layer


def test_dropout_inside_the_blocks_of_a_flat_efficientnet_stays():
    """keras 16234."""
    backbone = ftkeras.load_backbone("EfficientNetB0", weights="none", image_size=32)
    base = backbone.model
    own = {layer.name: layer.rate for layer in dropouts(base)}
    assert len(own) == 9 and 0.5 not in own.values()
    x = keras.layers.GlobalAveragePooling2D()(base.output)
    x = keras.layers.Dropout(0.2, name="head_dropout")(x)
    model = keras.Model(base.input, keras.layers.Dense(3, name="logits")(x))
    assert rates_in_the_phase(model, backbone.blocks) == {**own, "head_dropout": 0.5}


def two_layer_base() -> tuple[keras.Model, tuple[ftkeras.Block, ...]]:
    inputs = keras.Input((4,))
    first, second = keras.layers.Dense(4, name="first"), keras.layers.Dense(4, name="second")
    x = keras.layers.Dropout(0.1, name="between")(first(inputs))
    base = keras.Model(inputs, second(x), name="base")
    return base, (ftkeras.Block("one", (first,)), ftkeras.Block("two", (second,)))


def test_dropout_between_the_blocks_of_a_flat_model_stays():
    """keras 16234."""
    base, blocks = two_layer_base()
    x = keras.layers.Dropout(0.2, name="head_dropout")(base.output)
    model = keras.Model(base.input, keras.layers.Dense(3, name="logits")(x))
    assert rates_in_the_phase(model, blocks) == {"between": 0.1, "head_dropout": 0.5}


def nested_head() -> keras.Model:
    dropout, logits = keras.layers.Dropout(0.2, name="head_dropout"), keras.layers.Dense(3)
    return keras.Sequential([keras.Input((4,)), dropout, logits], name="head")


def test_dropout_of_a_nested_head_on_a_flat_base_is_found():
    """keras 16234."""
    base, blocks = two_layer_base()
    model = keras.Model(base.input, nested_head()(base.output))
    assert rates_in_the_phase(model, blocks) == {"between": 0.1, "head_dropout": 0.5}


def test_dropout_of_a_nested_head_on_a_nested_base_is_found():
    """keras 16234: it says that the head has no dropout layer, which is untrue."""
    base, blocks = two_layer_base()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, nested_head()(base(inputs)))
    assert rates_in_the_phase(model, blocks) == {"between": 0.1, "head_dropout": 0.5}
