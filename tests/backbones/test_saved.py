from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from ftkeras.backbones import load_backbone
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.errors import UserError


def _images(size):
    return np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype("float32")


def _small(size=16):
    """Scaling, two convolutions with batch norm, and a classifier."""
    inputs = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, name="first")(x)
    x = layers.BatchNormalization(name="first_bn")(x)
    x = layers.ReLU(name="first_relu")(x)
    x = layers.Conv2D(6, 3, strides=2, name="second")(x)
    x = layers.BatchNormalization(name="second_bn")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = layers.Conv2D(10, 1, name="logits")(x)
    return keras.Model(inputs, layers.Flatten(name="flat")(x), name="small")


def _save(model, tmp_path):
    path = str(tmp_path / "own.keras")
    model.save(path)
    return path


def _up_to(model, name):
    return keras.Model(model.input, model.get_layer(name).output)


def test_default_cut_is_the_last_feature_map_larger_than_one_pixel(tmp_path):
    model = _small()
    backbone = load_backbone(_save(model, tmp_path))
    assert backbone.natural_size == 16
    assert backbone.preprocessing == "none"
    assert backbone.model.output_shape == (None, 6, 6, 6)
    np.testing.assert_allclose(
        backbone.model(_images(16)), _up_to(model, "second_bn")(_images(16)), rtol=1e-6
    )


def test_blocks_are_layers_with_their_normalisation(tmp_path):
    backbone = load_backbone(_save(_small(), tmp_path))
    names = {block.name: [layer.name for layer in block.layers] for block in backbone.blocks}
    assert names == {"first": ["first", "first_bn"], "second": ["second", "second_bn"]}


def test_cut_at_a_named_layer(tmp_path):
    model = _small()
    backbone = load_backbone(_save(model, tmp_path), cut="first_relu")
    assert [block.name for block in backbone.blocks] == ["first"]
    np.testing.assert_allclose(
        backbone.model(_images(16)), _up_to(model, "first_relu")(_images(16)), rtol=1e-6
    )


def test_another_size_keeps_the_weights(tmp_path):
    model = _small()
    backbone = load_backbone(_save(model, tmp_path), image_size=24)
    assert backbone.model.output_shape == (None, 10, 10, 6)
    assert (backbone.natural_size, backbone.model.input_shape[1]) == (16, 24)
    np.testing.assert_array_equal(
        backbone.blocks[0].layers[0].kernel, model.get_layer("first").kernel
    )


def test_a_frozen_model_of_any_size_can_be_trained(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3, name="only"), layers.Flatten()]
    )
    model.trainable = False
    path = _save(model, tmp_path)
    with pytest.raises(UserError, match="data.input.size: .*takes images of any size"):
        load_backbone(path)
    backbone = load_backbone(path, image_size=8)
    assert len(backbone.model.trainable_weights) == 2
    expected = model.get_layer("only")(_images(8))
    np.testing.assert_allclose(backbone.model(_images(8)), expected, rtol=1e-5)


def test_weights_none_are_new_ones(tmp_path):
    model = _small()
    backbone = load_backbone(_save(model, tmp_path), weights="none")
    assert np.any(backbone.blocks[0].layers[0].kernel != model.get_layer("first").kernel)


def test_weights_from_another_file(tmp_path):
    path = _save(_small(), tmp_path)
    other = _small()
    other.save_weights(tmp_path / "other.weights.h5")
    backbone = load_backbone(path, weights=str(tmp_path / "other.weights.h5"))
    np.testing.assert_array_equal(
        backbone.blocks[1].layers[0].kernel, other.get_layer("second").kernel
    )


@pytest.mark.parametrize("kind", ["tf", "caffe"])
def test_an_assembled_model_becomes_a_backbone_with_the_catalogs_blocks(kind, tmp_path):
    """What `train` leaves behind: raw pixels, preprocessing, a nested backbone, a head."""
    builder = keras.applications.MobileNetV2 if kind == "tf" else keras.applications.VGG16
    base = builder(include_top=False, weights=None, input_shape=(64, 64, 3))
    images = keras.Input((64, 64, 3), name="image")
    features = base(preprocess(images, kind))
    logits = layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D()(features))
    path = _save(keras.Model(images, logits), tmp_path)
    backbone = load_backbone(path)
    reference = load_backbone(builder.__name__, weights="none", image_size=64)
    assert backbone.preprocessing == "none"
    assert [(b.name, len(b.layers)) for b in backbone.blocks] == [
        (b.name, len(b.layers)) for b in reference.blocks
    ]
    expected = keras.Model(images, features)(_images(64))
    np.testing.assert_allclose(backbone.model(_images(64)), expected, rtol=1e-4, atol=1e-5)
    backbone = load_backbone(path, image_size=96, cut=base.layers[-1].name)
    assert backbone.model.input_shape[1] == 96


def test_a_bare_application_gets_its_own_preprocessing(tmp_path):
    model = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    backbone = load_backbone(_save(model, tmp_path))
    assert backbone.preprocessing == "caffe"
    assert [block.name for block in backbone.blocks] == [f"block{i}" for i in range(1, 6)]


def test_layers_shared_and_named_alike_survive(tmp_path):
    shared = layers.Conv2D(3, 3, padding="same", name="conv")
    x = inner_input = keras.Input((8, 8, 3))
    inner = keras.Model(inner_input, layers.Conv2D(3, 3, padding="same", name="conv")(x))
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, shared(inner(shared(inputs))) + 1.0)
    backbone = load_backbone(_save(model, tmp_path))
    assert len(backbone.blocks) == 2
    np.testing.assert_allclose(backbone.model(_images(8)), model(_images(8)), rtol=1e-4, atol=1e-3)
    backbone.model.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras", safe_mode=True)
    np.testing.assert_allclose(again(_images(8)), model(_images(8)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("first_rely", "has no layer 'first_rely'. Did you mean 'first_relu'"),
        ("flat", r"'flat' puts out \(None, 10\), not a feature map.*'second_bn'"),
    ],
)
def test_wrong_cut(cut, message, tmp_path):
    with pytest.raises(UserError, match=f"backbone.cut: .*{message}"):
        load_backbone(_save(_small(), tmp_path), cut=cut)


def test_too_small_a_size(tmp_path):
    with pytest.raises(UserError, match="cannot take images of 2 px") as caught:
        load_backbone(_save(_small(), tmp_path), image_size=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 9, 3), (8, 3)])
def test_a_size_is_for_square_colour_images(shape, tmp_path):
    inputs = keras.Input(shape)
    path = _save(keras.Model(inputs, layers.Flatten()(inputs)), tmp_path)
    with pytest.raises(UserError, match="data.input.size: .* no square RGB image"):
        load_backbone(path, image_size=8)


def test_a_model_of_anything_else_keeps_its_inputs_and_its_end(tmp_path):
    inputs = keras.Input((12, 2), name="points")
    middle = layers.Conv1D(4, 3, name="first")(inputs)
    model = keras.Model(inputs, layers.LSTM(5, name="second")(middle))
    points = np.random.default_rng(0).normal(size=(2, 12, 2)).astype("float32")
    backbone = load_backbone(_save(model, tmp_path))
    assert (backbone.gives, [b.name for b in backbone.blocks]) == ("vector", ["first", "second"])
    assert backbone.model.inputs[0].name == "points"
    np.testing.assert_allclose(backbone.model(points), model(points), rtol=1e-6)
    cut = load_backbone(str(tmp_path / "own.keras"), cut="first")
    assert (cut.gives, cut.model.output_shape) == ("sequence", (None, 10, 4))


def test_several_inputs_keep_their_names(tmp_path):
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="bool", name="padding_mask")
    counted = keras.ops.cast(keras.ops.expand_dims(mask, -1), "float32")
    features = layers.Dense(4)(layers.Embedding(10, 8)(ids) * counted)
    model = keras.Model({"token_ids": ids, "padding_mask": mask}, features)
    given = {"token_ids": np.ones((2, 5), "int32"), "padding_mask": np.eye(2, 5) == 0}
    backbone = load_backbone(_save(model, tmp_path))
    assert backbone.gives == "sequence"
    np.testing.assert_allclose(backbone.model(given), model(given), rtol=1e-6)


def test_no_feature_map(tmp_path):
    inputs = keras.Input((8, 8, 3))
    path = _save(keras.Model(inputs, layers.Flatten()(inputs)), tmp_path)
    with pytest.raises(UserError, match="puts out a feature map"):
        load_backbone(path)


def test_lambda_layers_are_refused(tmp_path):
    inputs = keras.Input((8, 8, 3))
    path = _save(keras.Model(inputs, layers.Lambda(lambda x: x * 2)(inputs)), tmp_path)
    with pytest.raises(UserError, match="holds Python code .a Lambda layer."):
        load_backbone(path)


def test_custom_classes_are_named(tmp_path):
    class Mine(layers.Layer):
        def call(self, x):
            return x

    inputs = keras.Input((8, 8, 3))
    path = _save(keras.Model(inputs, Mine()(inputs)), tmp_path)
    with pytest.raises(UserError, match="needs code beyond Keras: .*'Mine'"):
        load_backbone(path)


@pytest.mark.parametrize("damage", ["missing", "text", "truncated"])
def test_wrong_file(damage, tmp_path):
    path = tmp_path / "own.keras"
    if damage == "text":
        path.write_text("hello")
    elif damage == "truncated":
        _save(_small(), tmp_path)
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="backbone.name: .*own.keras") as caught:
        load_backbone(str(path))
    assert "\n" not in str(caught.value)
