"""Weights files of each format and freezing state: each value where it belongs, or one error."""

from __future__ import annotations

import gzip
import itertools
from functools import cache
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from ftkeras.backbones import load_backbone
from ftkeras.backbones.blocks import leaf_layers
from ftkeras.backbones.matching import Mismatch
from ftkeras.backbones.weights_file import load_into, weights_in_order
from ftkeras.errors import UserError


def _layers(names=None):
    """Nine layers, of which many have equal shapes; unnamed ones are counted by Keras."""
    kinds = [
        lambda **k: layers.Conv2D(3, 3, padding="same", **k),
        lambda **k: layers.Conv2D(3, 3, padding="same", **k),
        layers.BatchNormalization,
        lambda **k: layers.DepthwiseConv2D(3, padding="same", **k),
        lambda **k: layers.Conv2D(3, 3, padding="same", **k),
        layers.BatchNormalization,
        lambda **k: layers.SeparableConv2D(3, 3, padding="same", **k),
        lambda **k: layers.Conv2D(3, 3, padding="same", **k),
        lambda **k: layers.Conv2D(3, 3, padding="same", **k),
    ]
    names = names or [None] * len(kinds)
    return [kind(name=name) for kind, name in zip(kinds, names, strict=True)]


_NAMES = ("f", "b", "b_n", "g", "a", "e_n", "h", "d", "c")  # in no order that helps


@cache
def _chain(names=None, shape="flat"):
    """A model of these layers: flat, or with a nested Functional or Sequential base and a head."""
    if shape == "sequential":
        model = keras.Sequential([keras.Input((6, 6, 3)), *_layers(names)])
    else:
        x = images = keras.Input((6, 6, 3))
        for layer in _layers(names):
            x = layer(x)
        model = keras.Model(images, x)
    if shape != "flat":
        images = keras.Input((6, 6, 3))
        model = keras.Model(images, layers.Dense(2, name="logits")(model(images)))
    values = itertools.count()
    for layer in leaf_layers(model):
        for variable in layer.weights:
            variable.assign(np.full(variable.shape, next(values), "float32"))
    return model


def _freeze(model, state):
    leaves = [layer for layer in leaf_layers(model) if layer.weights]
    frozen = {
        "none": [],
        "all": leaves,
        "first": leaves[:2],
        "middle": leaves[3:6],
        "last": leaves[6:],
        "batch norm": [x for x in leaves if isinstance(x, layers.BatchNormalization)],
        "every other": leaves[::2],
    }[state]
    for layer in leaves:
        layer.trainable = layer not in frozen
    return model


@cache
def _target(names=None):
    """A flat model of the same layers, built later: Keras has counted on since."""
    return _chain.__wrapped__(names)


_STATES = ("none", "all", "first", "middle", "last", "batch norm", "every other")
_FORMATS = (
    "model.keras",
    "whole.h5",
    "new.weights.h5",
    "unnamed.weights.h5",
    "shared.weights.json",
    "keras2.h5",
)


def _save(model, folder, name):
    path = str(folder / name)
    if name == "keras2.h5":
        _save_as_keras_2(model, path)
    elif name == "shared.weights.json":
        model.save_weights(path, max_shard_size=2e-6)
    elif name.endswith(".weights.h5"):
        model.save_weights(path)
        if name == "unnamed.weights.h5":  # as Keras 2.12 to 3.6 wrote it
            with h5py.File(path, "a") as file:
                file.visititems(lambda _, item: item.attrs.pop("name", None))
    else:
        model.save(path)
    return path


def _save_as_keras_2(model, path):
    """What `save_weights("x.h5")` of Keras 2 writes: no config, `:0`, trainable weights first."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = []
            for variable in layer.trainable_weights + layer.non_trainable_weights:
                name = f"{variable.path}:0"
                if "depthwise_conv2d" in name or name.startswith("g/"):
                    name = name.replace("/kernel", "/depthwise_kernel")
                names.append(name.encode())
                group[name] = variable.numpy()
            group.attrs["weight_names"] = names


def _values(model):
    return [float(np.mean(v)) for layer in leaf_layers(model) for v in layer.get_weights()]


def _check(target, source, path):
    """Whether all of a model's weights are those of the source, which may have a head more."""
    for layer in leaf_layers(target):
        layer.set_weights([np.full(w.shape, -1.0) for w in layer.weights])
    load_into(target, path, "Own")
    expected = _values(source)[: len(_values(target))]
    assert _values(target) == expected
    assert len(set(expected)) == len(expected) == 23


@pytest.mark.parametrize("shape", ["flat", "functional", "sequential"])
@pytest.mark.parametrize("name", _FORMATS)
def test_each_value_comes_to_its_layer_whatever_is_frozen(name, shape, tmp_path):
    # In other formats no order depends on what is frozen.
    states = _STATES if name in ("whole.h5", "keras2.h5") else ("none", "middle")
    for names, state in itertools.product((None, _NAMES), states):
        source, target = _freeze(_chain(names, shape), state), _target(names)
        path = _save(source, tmp_path, name)
        called = [{x.name for x in leaf_layers(m) if x.weights} for m in (source, target)]
        assert (called[0] >= called[1]) == (names is _NAMES)
        _check(target, source, path)


def _refusal(target, path):
    before = _values(target)
    with pytest.raises(UserError, match=r"does not fit Own: ") as caught:
        load_into(target, path, "Own")
    assert "\n" not in str(caught.value)
    assert _values(target) == before
    return str(caught.value)


@pytest.mark.parametrize("shape", ["flat", "functional"])
@pytest.mark.parametrize("name", _FORMATS)
@pytest.mark.parametrize("state", ["none", "middle"])
def test_counted_names_into_chosen_ones_by_an_order_that_the_file_tells(
    state, name, shape, tmp_path
):
    source = _freeze(_chain(shape=shape), state)
    path = _save(source, tmp_path, name)
    if (name, shape) == ("keras2.h5", "functional"):  # it does not tell their order
        assert "equal shapes, and nothing says which is" in _refusal(_target(_NAMES), path)
    else:
        _check(_target(_NAMES), source, path)


@pytest.mark.parametrize("names", [None, tuple(f"other_{name}" for name in _NAMES)])
@pytest.mark.parametrize("name", _FORMATS)
def test_chosen_names_that_the_model_does_not_have_are_refused(name, names, tmp_path):
    source = _chain(_NAMES)
    path = _save(source, tmp_path, name)
    if name == "unnamed.weights.h5":
        _check(_target(names), source, path)
    else:
        assert "save that as a .keras file" in _refusal(_target(names), path)


@pytest.mark.parametrize("name", _FORMATS)
def test_the_same_names_in_another_order(name, tmp_path):
    """Two models of one architecture that differ in which layer is called what."""
    path = _save(_chain(("a", "b", "b_n", "g", "c", "e_n", "h", "d", "f")), tmp_path, name)
    target = _chain(("b", "a", "b_n", "g", "d", "e_n", "h", "c", "f"))
    load_into(target, path, "Own")
    by_name = [2, 3, 0, 1] if name != "unnamed.weights.h5" else [0, 1, 2, 3]
    assert _values(target)[:4] == by_name


def _convolutions(count):
    return keras.Sequential([keras.Input((6, 6, 3)), *(layers.Conv2D(3, 1) for _ in range(count))])


@pytest.mark.parametrize("name", _FORMATS)
def test_more_counted_layers_than_needed_are_an_error_unless_the_numbers_agree(name, tmp_path):
    keras.backend.clear_session()
    path = _save(_convolutions(3), tmp_path, name)
    assert "equal shapes" in _refusal(_convolutions(2), path)
    if name != "unnamed.weights.h5":
        keras.backend.clear_session()
        load_into(_convolutions(2), path, "Own")


def test_five_convolutions_in_a_nested_base_as_load_model_does(tmp_path):
    """The report: two in the middle frozen, saved whole, loaded as a backbone's weights."""
    inner = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Conv2D(8, 1)]
        + [layers.Conv2D(8, 3, padding="same") for _ in range(5)]
    )
    for layer in inner.layers[2:4]:
        layer.trainable = False
    images = keras.Input((16, 16, 3))
    model = keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(inner(images))))
    model.save(tmp_path / "own.keras")
    for layer in inner.layers:
        layer.set_weights([keras.random.normal(w.shape) for w in layer.weights])
    model.save(tmp_path / "whole.h5")
    backbone = load_backbone(str(tmp_path / "own.keras"), weights=str(tmp_path / "whole.h5"))
    loaded = keras.models.load_model(tmp_path / "whole.h5")
    expected = [value for layer in leaf_layers(loaded) for value in layer.get_weights()]
    assert len(backbone.model.weights) == 12
    for weight, value in zip(backbone.model.weights, expected, strict=False):
        np.testing.assert_array_equal(weight, value)


def test_a_nested_mobilenet_of_each_freezing_state(tmp_path):
    def build():
        return keras.applications.MobileNetV2(
            include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.35
        )

    base, target = build(), build()
    images = keras.Input((32, 32, 3))
    model = keras.Model(images, layers.Dense(2)(base(images)))
    for frozen in (base.layers[:0], base.layers[:80], base.layers[40:90], base.layers):
        for layer in frozen:
            layer.trainable = False
        path = _save(model, tmp_path, "keras2.h5")
        for weight in target.weights:
            weight.assign(keras.ops.zeros(weight.shape))
        load_into(target, path, "MobileNetV2")
        for weight, value in zip(target.weights, base.weights, strict=True):
            np.testing.assert_array_equal(weight, value)


# ------------------------------------------------------------------------ odd and old files


def test_a_file_that_keras_2_wrote(tmp_path):
    """`keras2_nested.h5.gz` is from tf_keras 2.21.0, each weight filled with its number:

    kinds = [Conv2D, Conv2D, BatchNormalization, DepthwiseConv2D, Conv2D, BatchNormalization,
             SeparableConv2D, Conv2D, Conv2D], 3 filters of 3 x 3, padding="same", unnamed
    base = tf_keras.Sequential([tf_keras.Input((6, 6, 3)), *layers]); layers[3:6] are frozen
    tf_keras.Model(images, Dense(2, name="logits")(base(images))).save_weights("keras2_nested.h5")
    """
    path = tmp_path / "keras2_nested.h5"
    path.write_bytes(gzip.decompress(Path(__file__).with_name("keras2_nested.h5.gz").read_bytes()))
    _check(_target(), _chain(), str(path))
    assert "nothing says which is" in _refusal(_target(_NAMES), str(path))


@pytest.mark.parametrize("name", ["whole.h5", "new.weights.h5", "model.keras"])
def test_a_counted_layer_that_no_other_can_be(name, tmp_path):
    """ConvNeXt's last normalisation has a chosen name with a top, and a counted one without."""

    def build(last, head):
        x = images = keras.Input((4, 4, 3))
        for each in ("a", "b"):
            x = layers.Conv2D(3, 1, name=each)(x)
        x = layers.LayerNormalization(name=last)(x)
        return keras.Model(images, layers.Dense(5, name="top")(x) if head else x)

    source, target = build("head_norm", True), build(None, False)
    source.get_layer("head_norm").set_weights([np.full(3, 7.0), np.full(3, 8.0)])
    load_into(target, _save(source, tmp_path, name), "Own")
    assert _values(target)[4:] == [7, 8]
    with pytest.raises(UserError, match="it lacks a layer 'other'"):
        load_into(build("other", False), str(tmp_path / name), "Own")


def _legacy(path, groups):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = list(groups)
        for layer, arrays in groups.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name for name, _ in arrays]
            for name, array in arrays:
                if name not in group:
                    group[name] = array
    return str(path)


def test_a_layer_with_the_names_of_keras_1(tmp_path):
    layer = layers.BatchNormalization(name="one")
    model = keras.Sequential([keras.Input((4,)), layer])
    kinds = ("running_std", "gamma", "running_mean", "beta")
    arrays = [(f"one_{kind}_1:0", np.full(4, i)) for i, kind in enumerate(kinds)]
    load_into(model, _legacy(tmp_path / "old.h5", {"one": arrays}), "Own")
    assert _values(model) == [1, 3, 2, 0]


def test_weights_of_one_layer_that_could_be_exchanged(tmp_path):
    layer = layers.BatchNormalization(name="one", scale=False)
    model = keras.Sequential([keras.Input((4,)), layer])
    arrays = [(f"one/{kind}:0", np.ones(4)) for kind in ("gamma", "moving_mean", "moving_variance")]
    message = _refusal(model, _legacy(tmp_path / "other.h5", {"one": arrays}))
    assert "has the weights gamma, moving_mean, moving_variance" in message


def test_names_with_slashes(tmp_path):
    """MobileNetV3's layers in Keras 2: Conv/BatchNorm is conv_bn now."""
    names = {"Conv": "conv", "Conv/BatchNorm": "conv_bn", "Conv_1": "conv_1"}
    kernel = np.ones((1, 1, 3, 3))
    groups = {
        "Conv_1": [("Conv_1/kernel:0", kernel * 9)],
        "Conv": [("Conv/kernel:0", kernel * 8)],
        "Conv/BatchNorm": [
            (f"Conv/BatchNorm/{kind}:0", np.full(3, index))
            for index, kind in enumerate(["gamma", "beta", "moving_mean", "moving_variance"])
        ],
    }
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Conv2D(3, 1, use_bias=False, name=names["Conv"]),
            layers.BatchNormalization(name=names["Conv/BatchNorm"]),
            layers.Conv2D(3, 1, use_bias=False, name=names["Conv_1"]),
        ]
    )
    load_into(model, _legacy(tmp_path / "slashes.h5", groups), "Own")
    assert _values(model) == [8, 0, 1, 2, 3, 9]


def test_names_that_repeat(tmp_path):
    arrays = [("kernel", np.ones((1, 1, 3, 3))), ("bias", np.ones(3))] * 2
    path = _legacy(tmp_path / "twice.h5", {"base": arrays})
    with pytest.raises(UserError, match="several weights of 'base' one name. Save the model again"):
        load_into(_convolutions(2), path, "Own")


def test_layers_that_hold_layers_come_by_name_too(tmp_path):
    """Part of a layer frozen: the order of its weights in a legacy file changes."""

    def build():
        images = keras.Input((4, 4, 3))
        x = layers.Reshape((16, 3))(images)
        x = layers.MultiHeadAttention(1, 3)(x, x)
        return keras.Model(images, layers.Bidirectional(layers.LSTM(2))(x))

    source = build()
    values = itertools.count()
    for weight in source.weights:
        weight.assign(np.full(weight.shape, next(values)))
    source.layers[2].query_dense.trainable = False
    source.layers[3].forward_layer.trainable = False
    for name in _FORMATS:
        target = build()
        load_into(target, _save(source, tmp_path, name), "Own")
        assert _values(target) == list(range(14))


@pytest.mark.parametrize("file", ["../s_00000.weights.h5", "/etc/passwd"])
def test_shards_elsewhere(file, tmp_path):
    path = _save(_convolutions(2), tmp_path, "shared.weights.json")
    text = (tmp_path / "shared.weights.json").read_text()
    (tmp_path / "shared.weights.json").write_text(text.replace("shared_00000.weights.h5", file))
    with pytest.raises(UserError, match="it points outside of its folder"):
        load_into(_convolutions(2), path, "Own")


def test_half_precision(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        source = _convolutions(1)
    finally:
        keras.config.set_dtype_policy("float32")
    target = _convolutions(1)
    load_into(target, _save(source, tmp_path, "half.weights.h5"), "Own")
    np.testing.assert_array_equal(target.weights[0], source.weights[0].numpy().astype("float32"))
    assert np.ptp(target.weights[0]) > 0


def test_weights_in_the_order_of_another_model():
    source = _chain(("a", "b", "b_n", "g", "c", "e_n", "h", "d", "f"))
    target = _chain(("b", "a", "b_n", "g", "d", "e_n", "h", "c", "f"))
    values = weights_in_order(source, target)
    assert [float(np.mean(value)) for value in values][:4] == [2, 3, 0, 1]
    with pytest.raises(Mismatch, match="equal shapes"):
        weights_in_order(source, _target())
