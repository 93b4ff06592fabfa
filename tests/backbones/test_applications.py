"""Every backbone of the catalog, built once for all that is checked of it."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones import CATALOG, load_backbone
from ftkeras.backbones.blocks import layer_digests, leaf_layers
from ftkeras.errors import UserError
from ftkeras.graph import flatten
from ftkeras.keras_internals import flat_layers, seed_generators
from ftkeras.model.assemble import build_model
from ftkeras.phases.freezing import set_trainable, trained_weights
from ftkeras.phases.selectors import weights_of
from ftkeras.trunk.split import is_within, joined_trunk, split_model

_QUICK = {"MobileNet", "MobileNetV2", "MobileNetV3Small", "VGG16", "ConvNeXtTiny", "Xception"}
_ALL_BOUNDARIES = {"MobileNetV2", "EfficientNetB0"}
# The largest first, while the process is small: it keeps some of the memory of what it has built.
_LARGEST_FIRST = sorted(CATALOG, key=lambda name: CATALOG[name].parameters, reverse=True)
_SMALLEST = list({id(CATALOG[name].family): name for name in _LARGEST_FIRST}.values())
"""Of each family: what is code of the family is run on this one."""
_ALL = [*_SMALLEST, *(name for name in _LARGEST_FIRST if name not in _SMALLEST)]


def _marked(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module", params=_marked(_ALL))
def backbone(request):
    """Each backbone with random weights at its smallest size, built once for all tests of it."""
    keras.utils.set_random_seed(0)
    entry = CATALOG[request.param]
    yield load_backbone(entry.name, weights="none", image_size=entry.family.smallest_size)
    keras.backend.clear_session(free_memory=True)


def test_is_what_the_catalog_says(backbone):
    entry = CATALOG[backbone.name]
    assert backbone.model.count_params() == entry.parameters
    assert len(backbone.blocks) == entry.blocks
    assert layer_digests(leaf_layers(backbone.model))[-1] == entry.layers
    assert backbone.preprocessing == entry.family.preprocessing
    assert backbone.model.input_shape == (None, *[entry.family.smallest_size] * 2, 3)
    assert len(backbone.model.output_shape) == 4


def test_blocks_hold_each_weighted_layer_once_in_graph_order(backbone):
    in_blocks = [layer for block in backbone.blocks for layer in block.layers]
    weighted = [layer for layer in leaf_layers(backbone.model) if layer.weights]
    assert [layer.name for layer in in_blocks] == [layer.name for layer in weighted]
    assert len({block.name for block in backbone.blocks}) == len(backbone.blocks)
    variables = [id(v) for layer in in_blocks for v in layer.weights]
    assert sorted(variables) == sorted(id(v) for v in backbone.model.weights)


def test_raw_pixels_reach_the_first_convolution_at_a_sane_scale(backbone):
    """Either `preprocess` scales or the model does: never both, never neither."""
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    inside = [layer for layer in backbone.model.layers if isinstance(layer, scaling)]
    assert bool(inside) == (backbone.preprocessing == "none")
    if inside:
        scaled = keras.Model(backbone.model.input, inside[-1].output)
        size = backbone.smallest_size
        values = [scaled(np.full((1, size, size, 3), v, "float32")) for v in (0.0, 255.0)]
        assert np.abs(values).max() < 3
        assert np.all(values[1] - values[0] > 0.9)


@pytest.mark.parametrize("backbone", _marked(_SMALLEST), indirect=True)
def test_training_the_last_block_changes_exactly_its_weights(backbone):
    keras.utils.set_random_seed(0)
    model = backbone.model
    for layer in leaf_layers(model):
        layer.trainable = False
    for layer in backbone.blocks[-1].layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    expected = {v.path for v in model.trainable_weights}
    before = {v.path: zlib.crc32(v.numpy()) for v in model.weights}

    # Four: with two, stochastic depth may drop the last block for every image.
    images = keras.random.uniform((4, *model.input_shape[1:]), maxval=255)
    # A frozen Keras variable is still one that a tape would watch, back to the first layer.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in model.trainable_weights])
        features = model(images, training=True)  # (batch, height, width, channels)
        # Relative to their size: with untrained batch norm, features fade or grow with depth.
        loss = keras.ops.mean(features * keras.random.normal(features.shape))
        loss /= keras.ops.mean(keras.ops.abs(features))
    for variable, gradient in zip(
        model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True
    ):
        variable.assign_sub(0.01 * keras.ops.sign(gradient))

    assert np.all(np.isfinite(features))
    changed = {v.path for v in model.weights if zlib.crc32(v.numpy()) != before[v.path]}
    assert changed == expected
    assert expected


@pytest.mark.parametrize("backbone", _marked(_SMALLEST), indirect=True)
def test_tail_after_trunk_is_the_model_at_every_boundary(backbone):
    model = build_model(backbone, 3, dropout=0.0)
    weights, count = weights_of(model, backbone.blocks), len(backbone.blocks)
    graph = flatten(model)
    shape = (2, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
    expected = model(images).numpy()
    close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(expected).max()}
    tops = range(count) if backbone.name in _ALL_BOUNDARIES else sorted({0, 1, count // 2})
    random = any(map(seed_generators, flat_layers(model)))
    splits = []
    # If layers are random, silencing them makes the trunks long; one is also cut short.
    for top, silence in [(top, random) for top in tops] + [(0, False)] * random:
        selectors = ["head", *([f"blocks[-{top}:]"] if top else [])]
        set_trainable(model, trained_weights(weights, selectors, "frozen"), "frozen")
        split = split_model(model, silence=silence, graph=graph)
        assert {id(v) for v in split.tail.trainable_variables} == {
            id(v) for v in model.trainable_variables
        }
        assert is_within(split, splits[0] if splits else split)
        assert_complete(split.trunk.graph)
        splits.append(split)

    # The longest trunk computes all frontiers at once, as it does when they are stored.
    trunk, indices = joined_trunk(splits)
    tensors = keras.tree.flatten(trunk(images))
    for split, chosen in zip(splits, indices, strict=True):
        frontier = tuple(tensors[index] for index in chosen)
        assert [(x.shape[1:], x.dtype.name) for x in frontier] == [
            (spec.shape, spec.dtype) for spec in split.frontier
        ]
        np.testing.assert_allclose(split.tail(frontier), expected, **close)
    alone = keras.tree.flatten(splits[-1].trunk(images))  # the shortest trunk
    for found, among_all in zip(alone, frontier, strict=True):
        np.testing.assert_array_equal(found, among_all)
    if not random:
        found = splits[-1].tail(frontier, training=True)
        np.testing.assert_allclose(found, model(images, training=True), **close)


def assert_complete(graph):
    """Every step finds its inputs: with the layers of the model, it computes what that does."""
    made = set(graph.inputs)
    for step in graph.steps:
        assert made.issuperset(step.inputs)
        made.update(step.outputs)
    assert made.issuperset(graph.outputs)


def test_known_blocks():
    """Written by hand, from the papers' figures."""
    names = [b.name for b in load_backbone("MobileNetV2", weights="none", image_size=32).blocks]
    assert names == ["stem", *(f"block_{i}" for i in range(17))]
    last = load_backbone("ResNet50", weights="none", image_size=32).blocks[-4]
    assert last.name == "conv4_block6"
    assert [layer.name for layer in last.layers] == [
        f"conv4_block6_{i}_{kind}" for i in (1, 2, 3) for kind in ("conv", "bn")
    ]


def test_automatic_layer_names_do_not_matter():
    """Keras numbers unnamed layers through the process: a second InceptionV3 has other names."""
    first, second = (load_backbone("InceptionV3", weights="none", image_size=75) for _ in range(2))
    assert first.blocks[1].layers[0].name != second.blocks[1].layers[0].name
    sizes = [[(b.name, len(b.layers)) for b in backbone.blocks] for backbone in (first, second)]
    assert sizes[0] == sizes[1]
    assert sizes[0][:2] == [("stem", 10), ("mixed0", 14)]


@pytest.mark.parametrize("name", ["ConvNeXtTiny", "MobileNetV3Small"])
def test_custom_layers_and_operations_survive_saving(name, tmp_path):
    model = load_backbone(name, weights="none", image_size=CATALOG[name].family.smallest_size).model
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    images = np.random.default_rng(0).uniform(0, 255, (1, *model.input_shape[1:]))
    np.testing.assert_allclose(loaded(images), model(images), rtol=1e-5, atol=1e-5)


def test_efficientnet_weights_from_a_file_see_what_downloaded_ones_see(tmp_path):
    """Keras's file holds ImageNet's deviation as the variance; pixels must still come out right."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    plain = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    normalization = next(x for x in plain.layers if isinstance(x, keras.layers.Normalization))
    shapes = [v.shape for v in normalization.weights]
    normalization.set_weights(
        [np.reshape(v, s) for v, s in zip((mean, deviation, 0), shapes, strict=True)]
    )
    path = str(tmp_path / "efficientnetb0_notop.h5")
    plain.save(path)
    model = load_backbone("EfficientNetB0", weights=path, image_size=32).model
    seen = keras.Model(model.input, model.get_layer("stem_conv_pad").input)
    images = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3))
    np.testing.assert_allclose(seen(images), (images / 255 - mean) / deviation, atol=1e-5)


def test_starter_weights():
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=96)
    kernel = backbone.blocks[0].layers[0].kernel
    expected = np.load(_starter_file(), allow_pickle=False)["Conv1/kernel"]
    np.testing.assert_array_equal(kernel, expected.astype("float32"))
    with pytest.raises(UserError, match="starter.*MobileNetV2"):
        load_backbone("VGG16", weights="starter", image_size=32)


def _starter_file():
    import ftkeras.starter

    folder = os.path.dirname(ftkeras.starter.__file__)
    return os.path.join(folder, "mobilenet_v2_160_notop_float16.npz")


def test_cut_after_a_block():
    whole = load_backbone("MobileNetV2", weights="starter", image_size=32)
    cut = load_backbone("MobileNetV2", weights="starter", image_size=32, cut="block_5_add")
    assert cut.model.output_shape == (None, 4, 4, 32)
    assert [b.name for b in cut.blocks] == [b.name for b in whole.blocks[: len(cut.blocks)]]
    assert cut.blocks[-1].name == "block_5"
    expected = keras.Model(whole.model.input, whole.model.get_layer("block_5_add").output)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(cut.model(images), expected(images), rtol=1e-5, atol=1e-6)


def test_size_defaults_to_the_natural_one():
    assert load_backbone("MobileNetV2", weights="none").model.input_shape == (None, 224, 224, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "Xception", "image_size": 70},
            "data.input.size: 70 is too small.*smallest is 71",
        ),
        ({"name": "VGG16", "cut": "block4_poo"}, "backbone.cut: .* Did you mean 'block4_pool'"),
        ({"name": "ResNet51"}, "no backbone 'ResNet51' for images. Did you mean 'ResNet50'"),
        ({"name": "VGG16", "weights": "imagenett"}, "backbone.weights: no file 'imagenett'"),
    ],
)
def test_wrong_input(arguments, message):
    with pytest.raises(UserError, match=message):
        load_backbone(**{"weights": "none", "image_size": 32, **arguments})


@pytest.mark.slow
def test_a_failed_download_says_what_to_do_instead(tmp_path):
    """In a process of its own, whose network ends at a closed port."""
    code = (
        "from ftkeras.backbones import load_backbone\n"
        "from ftkeras.errors import UserError\n"
        "try: load_backbone('MobileNetV2', image_size=100)\n"
        "except UserError as error: print(error)"
    )
    dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "localhost:1")
    environment = {**os.environ, **dead, "KERAS_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment
    )
    line = done.stdout.strip().splitlines()[-1]
    assert line.startswith("backbone.weights: Keras could not download the ImageNet weights of Mob")
    assert line.endswith("backbone.name=MobileNetV2 and backbone.weights=starter.")
