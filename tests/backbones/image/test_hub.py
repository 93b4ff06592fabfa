"""Image backbones of keras-hub: every family, and folders as Keras and transformers have them."""

from __future__ import annotations

import json
import runpy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.backbones import Backbone, hub, load_backbone
from ftkeras.backbones.image import hub as image_hub
from ftkeras.backbones.image.families import FAMILIES, family_of
from ftkeras.cli import main as cli
from ftkeras.config.load import parse_config
from ftkeras.errors import UserError
from ftkeras.keras_internals import flat_layers
from ftkeras.model.assemble import build_model
from ftkeras.model.pooling import pool
from ftkeras.model.surgery import reinitialize
from ftkeras.phases.freezing import set_trainable, trained_weights
from ftkeras.phases.selectors import weights_of
from ftkeras.run import Run
from ftkeras.runs.finished import load_model
from ftkeras.runs.train import train
from ftkeras.trunk.split import TrunkSplit, split_or_reason

keras_hub = pytest.importorskip("keras_hub")
folders = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("folders.py"))))

# --------------------------------------------------------- each family, small and random

SIZE = 32
_SQUARE = (SIZE, SIZE, 3)
_SEEN = {"image_shape": _SQUARE, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
_VIT = {**_SEEN, "patch_size": 8, "intermediate_dim": 32}
_LAYERS = ["stem", "layers_0", "layers_1"]
_LISTED = ["stem", "encoder_block_0", "encoder_block_1"]
_STACKED = ["stem", "transformer_block_1", "transformer_block_2"]


class Tiny(NamedTuple):
    """One small network, and what it has to be.

    Args:
        kind: A class in `keras_hub.models`.
        config: What it is made of.
        gives: What its features are.
        blocks: The names of its blocks.
        front: How many steps stand before those of the patches.
    """

    kind: str
    config: dict[str, Any]
    gives: str
    blocks: list[str]
    front: int = 0


TINY = {
    "vit": Tiny(
        "ViTBackbone",
        {**_SEEN, "patch_size": 8, "mlp_dim": 32, "dropout_rate": 0.1},
        "sequence",
        _STACKED,
        front=1,
    ),
    "deit": Tiny("DeiTBackbone", _VIT, "sequence", _STACKED, front=2),
    "dinov2": Tiny(
        "DINOV2Backbone",
        {**_VIT, "num_register_tokens": 2, "position_embedding_shape": (64, 64, 3)},
        "sequence",
        _LAYERS,
        front=3,
    ),
    "dinov3": Tiny("DINOV3Backbone", _VIT, "sequence", _LAYERS, front=5),
    "siglip": Tiny("SigLIPVisionEncoder", _VIT, "vector", _LISTED),
    "clip": Tiny("CLIPVisionEncoder", _VIT, "sequence", _LISTED, front=1),
    "metaclip 2": Tiny("MetaCLIP2VisionEncoder", _VIT, "sequence", _LISTED, front=1),
    "swin": Tiny(
        "SwinTransformerBackbone",
        {
            "image_shape": _SQUARE,
            "embed_dim": 8,
            "depths": [1, 2],
            "num_heads": [1, 2],
            "window_size": 4,
        },
        "sequence",
        ["stem", "stage_0_block_0", "stage_1_block_0", "stage_1_block_1"],
    ),
    "mit": Tiny(
        "MiTBackbone",
        {
            "layerwise_depths": [1, 1],
            "image_shape": _SQUARE,
            "hidden_dims": [8, 16],
            "num_layers": 2,
            "layerwise_num_heads": [1, 2],
            "layerwise_sr_ratios": [2, 1],
            "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7, 3],
            "layerwise_strides": [4, 2],
        },
        "map",
        ["stem", "stage_0_block_0", "stage_1_block_0"],
    ),
    "hgnetv2": Tiny(
        "HGNetV2Backbone",
        {
            "depths": [1, 1],
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "stem_channels": [3, 8, 8],
            "hidden_act": "relu",
            "use_learnable_affine_block": False,
            "stackwise_stage_filters": [[8, 8, 16, 1, 2, 3], [16, 8, 32, 1, 2, 3]],
            "apply_downsample": [False, True],
            "use_lightweight_conv_block": [False, True],
        },
        "map",
        ["stem", "stage_0_block_0", "stage_1_block_0"],
    ),
    "resnet": Tiny(
        "ResNetBackbone",
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 16],
            "stackwise_num_blocks": [1, 2],
            "stackwise_num_strides": [1, 2],
            "block_type": "basic_block",
        },
        "map",
        ["stem", "stack0_block0", "stack1_block0", "stack1_block1"],
    ),
    "resnet v2": Tiny(
        "ResNetBackbone",
        {
            "input_conv_filters": [8, 8, 64],
            "input_conv_kernel_sizes": [3, 3, 3],
            "stackwise_num_filters": [64, 16],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
            "block_type": "bottleneck_block",
            "use_pre_activation": True,
        },
        "map",
        ["stem", "stack0_block0", "stack1_block0"],
    ),
    "cspnet": Tiny(
        "CSPNetBackbone",
        {
            "stem_filters": 8,
            "stem_kernel_size": 3,
            "stem_strides": 1,
            "stem_padding": "same",
            "stackwise_depth": [1, 2],
            "stackwise_strides": [2, 2],
            "stackwise_num_filters": [16, 32],
            "block_type": "bottleneck_block",
            "stage_type": "csp",
            "bottle_ratio": [0.5],
            "block_ratio": [1.0],
            "expand_ratio": [2.0],
        },
        "map",
        ["stem", "stage_0", "stage_1"],
    ),
    "densenet": Tiny(
        "DenseNetBackbone",
        {"stackwise_num_repeats": [2, 2], "compression_ratio": 0.5, "growth_rate": 4},
        "map",
        ["stem", "stack1", "stack2"],
    ),
    "efficientnet": Tiny(
        "EfficientNetBackbone",
        {
            "stackwise_kernel_sizes": [3, 3],
            "stackwise_num_repeats": [1, 2],
            "stackwise_input_filters": [8, 8],
            "stackwise_output_filters": [8, 16],
            "stackwise_expansion_ratios": [1, 4],
            "stackwise_strides": [1, 2],
            "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "stackwise_block_types": ["v1", "v1"],
        },
        "map",
        ["stem", "block1a", "block2a", "block2b"],
    ),
    "mobilenet": Tiny(
        "MobileNetBackbone",
        {
            "stackwise_expansion": [[8], [16]],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_filters": [[8], [16]],
            "stackwise_kernel_size": [[3], [3]],
            "stackwise_num_strides": [[2], [2]],
            "stackwise_se_ratio": [[0.25], [None]],
            "stackwise_activation": [["relu"], ["hard_swish"]],
            "stackwise_padding": [[1], [1]],
            "input_num_filters": 8,
            "output_num_filters": 32,
            "depthwise_filters": 8,
            "depthwise_stride": 2,
            "depthwise_residual": False,
            "squeeze_and_excite": 0.5,
            "last_layer_filter": 32,
            "output_activation": "hard_swish",
            "input_activation": "hard_swish",
        },
        "map",
        ["stem", "block_0_0", "block_1_0", "block_2_0", "block_3_0"],
    ),
    "mobilenetv5": Tiny(
        "MobileNetV5Backbone",
        {
            "stackwise_block_types": [["er"], ["uir", "mqa"]],
            "stackwise_num_blocks": [1, 2],
            "stackwise_num_filters": [[16], [16, 16]],
            "stackwise_strides": [[2], [2, 1]],
            "stackwise_act_layers": [["relu"], ["relu", "relu"]],
            "stackwise_exp_ratios": [[4.0], [4.0, 1.0]],
            "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
            "stackwise_dw_kernel_sizes": [[0], [3, 0]],
            "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
            "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
            "stackwise_exp_kernel_sizes": [[3], [0, 0]],
            "stackwise_pw_kernel_sizes": [[1], [0, 0]],
            "stackwise_num_heads": [[0], [0, 2]],
            "stackwise_key_dims": [[0], [0, 8]],
            "stackwise_value_dims": [[0], [0, 8]],
            "stackwise_kv_strides": [[0], [0, 1]],
            "stackwise_use_cpe": [[False], [False, False]],
            "use_msfa": False,
            "image_shape": _SQUARE,
        },
        "map",
        ["stem", "block_0", "block_1", "block_2"],
    ),
    "vgg": Tiny(
        "VGGBackbone",
        {"stackwise_num_repeats": [1, 2], "stackwise_num_filters": [4, 8]},
        "map",
        ["block1", "block2"],
    ),
    "xception": Tiny(
        "XceptionBackbone",
        {
            "stackwise_conv_filters": [[8, 8], [16, 16], [16, 32]],
            "stackwise_pooling": [False, True, False],
        },
        "map",
        ["block1", "block2", "block3"],
    ),
}

# -------------------------------------------------------------------------- as a backbone

SCALE, OFFSET = [1 / 100, 1 / 110, 1 / 120], [-1.0, -1.1, -1.2]


@dataclass(frozen=True)
class Made(hub.HubModel):
    """A model that is made here, with a converter of its own."""

    def json(self, file: str) -> dict[str, Any]:
        return {"class_name": "ImageConverter"}

    def load(self, part: Any, **options: Any) -> Any:
        if part is keras_hub.layers.ImageConverter:
            return part(image_size=(SIZE, SIZE), scale=SCALE, offset=OFFSET)
        kind = getattr(keras_hub.models, TINY[self.name].kind)
        return kind(**TINY[self.name].config)


def tiny(name: str, **options: Any) -> Backbone:
    options = {"weights": "imagenet", "image_size": None, "cut": None, **options}
    return image_hub.load(Made(name, "", {}, "image"), **options)


def pixels(size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def test_there_is_a_small_one_of_each_family():
    assert {one.kind for one in TINY.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", TINY)
def test_a_family_partitions_trains_exactly_its_last_block_and_splits(name):
    on = tiny(name)
    assert (on.gives, on.front, on.natural_size) == (TINY[name].gives, TINY[name].front, SIZE)
    assert [block.name for block in on.blocks] == TINY[name].blocks
    held = [id(x) for block in on.blocks for layer in block.layers for x in layer.weights]
    assert sorted(held) == sorted(id(x) for x in on.model.weights)

    model = build_model(on, 2, dropout=0.0)
    weights = weights_of(model, on.blocks)
    trained = trained_weights(weights, ["head", "blocks[-1:]"], "freeze")
    assert {weight.block for weight in trained} == {None, TINY[name].blocks[-1]}
    set_trainable(model, trained, "freeze")
    wanted = {id(x) for layer in on.blocks[-1].layers for x in layer.trainable_weights}
    wanted |= {id(x) for x in model.get_layer("logits").weights}
    assert {id(x) for x in model.trainable_weights} == wanted
    before = [x.numpy() for x in model.weights]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(pixels(), training=True)[:, 0])
    assert all(x is not None for x in tape.gradient(loss, model.trainable_weights))
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(new, old)  # statistics, too

    split = split_or_reason(model, silence=True)
    assert isinstance(split, TrunkSplit)
    last = {id(step.operation) for step in split.tail.graph.steps}
    assert last >= {id(layer) for layer in on.blocks[-1].layers if layer.trainable_weights}
    assert not last & {id(layer) for block in on.blocks[:-1] for layer in block.layers}
    stored = split.trunk(pixels(), training=False)
    expected = model(pixels(), training=False)
    np.testing.assert_allclose(split.tail(stored, training=False), expected, atol=1e-6)


def test_pixels_are_scaled_within_the_model():
    on = tiny("resnet")
    [encoder] = [x for x in on.model.layers if isinstance(x, keras.Model)]
    np.testing.assert_allclose(on.model(pixels()), encoder(pixels() * SCALE + OFFSET), atol=1e-5)


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "resnet"])
def test_another_size_keeps_the_weights(name):
    on, other = tiny(name), tiny(name, image_size=48)
    assert other.model.input_shape == (None, 48, 48, 3) and other.natural_size == SIZE
    if name == "dinov2":  # each position from those that the preset holds
        embeddings = [x for x in other.model.layers if isinstance(x, keras.Model)][0].embeddings
        assert embeddings.interpolated_position_embeddings.shape == (1, 37, 16)
        assert np.abs(embeddings.interpolated_position_embeddings.numpy()).max() > 0
    assert len(on.model.weights) == len(other.model.weights)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit", {"image_size": 48}, "vit takes only images of 32 px: its weights hold one posi"),
        ("vit", {"image_size": 44}, "data.input.size: vit cannot take images of 44 px: "),
        ("vit", {"cut": "vit_encode"}, "vit has no layer 'vit_encode' to cut at. Did you mean"),
        ("vit", {"weights": "starter"}, "backbone.weights: vit has weights of its own"),
    ],
)
def test_what_a_family_cannot_do_is_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        tiny(name, **options)


def test_random_weights_take_any_size_and_a_cut_ends_the_blocks():
    assert tiny("vit", weights="none", image_size=48).model.output_shape == (None, 37, 16)
    on = tiny("clip", cut="encoder_block_0")
    assert [block.name for block in on.blocks] == ["stem", "encoder_block_0"]


def test_other_classes_are_refused_by_name():
    with pytest.raises(UserError, match="x is a SAMBackbone, which segments .* needs one of ViT,"):
        family_of("SAMBackbone", "x")
    assert family_of("CLIPBackbone", "x") is FAMILIES["CLIPVisionEncoder"]


def test_pooling_takes_the_class_token_or_the_patches_without_it():
    steps = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
    inputs = keras.Input((6, 2))
    found = {
        how: keras.Model(inputs, pool(inputs, how, front=2))(steps).numpy().tolist()
        for how in (None, "first", "mean", "max")
    }
    patches = steps[:, 2:]
    assert found == {
        None: steps[:, 0].tolist(),
        "first": steps[:, 0].tolist(),
        "mean": patches.mean(axis=1).tolist(),
        "max": patches.max(axis=1).tolist(),
    }


def test_a_block_of_a_transformer_gets_fresh_weights():
    on = tiny("vit")
    before = [block.layers[0].get_weights() for block in on.blocks]
    reinitialize(on.blocks[-1:], seed=0)
    changed = [
        any((a != b).any() for a, b in zip(old, block.layers[0].get_weights(), strict=True))
        for old, block in zip(before, on.blocks, strict=True)
    ]
    assert changed == [False, False, True]


# ----------------------------------------------------------------------------- local folders


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> dict[str, Path]:
    pytest.importorskip("safetensors")
    root = tmp_path_factory.mktemp("hugging_face")
    return {name: folders.write(root / name, name) for name in folders.CONFIGS}


@pytest.mark.parametrize("name", folders.CONFIGS)
def test_a_folder_of_hugging_face_gives_what_transformers_gives(converted, name):
    expected = np.array(json.loads(folders.FEATURES.read_text())[name])
    on = load_backbone(str(converted[name]))
    assert (on.natural_size, on.front) == (SIZE, {"vit": 1, "dinov2": 4}[name])
    found = on.model(folders.images().astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_folder_of_keras_hub_and_a_saved_model_give_the_same(tmp_path):
    encoder = Made("dinov2", "", {}, None).load(None)
    encoder.save_to_preset(str(tmp_path))
    with pytest.raises(UserError, match="has no image_converter.json, so nothing says how pixels"):
        load_backbone(str(tmp_path))
    keras_hub.layers.DINOV2ImageConverter(scale=SCALE, offset=OFFSET).save_to_preset(str(tmp_path))
    on = load_backbone(str(tmp_path))
    scaled = {"images": pixels() * SCALE + OFFSET}
    np.testing.assert_allclose(on.model(pixels()), encoder(scaled), atol=1e-5)
    model = build_model(on, 2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(pixels()), model(pixels()))


def test_what_a_folder_does_not_say_is_refused(converted, tmp_path):
    folder = folders.write(tmp_path / "vit", "vit")
    config = folder / "config.json"
    config.write_text(json.dumps({**folders.CONFIGS["vit"], "hidden_act": "relu"}))
    with pytest.raises(
        UserError, match="the activation relu; for a vit keras-hub converts only gelu"
    ):
        load_backbone(str(folder))
    config.write_text(json.dumps(folders.CONFIGS["vit"]))
    says = folder / "preprocessor_config.json"
    says.write_text(json.dumps({"size": 32}))
    with pytest.raises(UserError, match="does not say how pixels are scaled: KeyError, 'image_me"):
        load_backbone(str(folder))
    says.unlink()
    with pytest.raises(UserError, match="has no preprocessor_config.json, so nothing says"):
        load_backbone(str(folder))


# -------------------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def run(converted, tmp_path_factory) -> Run:
    """Head, then the last layer of the converted ViT, both from a store, with export and report."""
    folder = tmp_path_factory.mktemp("run")
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 120, (40, SIZE, SIZE, 3))
    images[..., 0] += 120 * labels[:, None, None]
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=labels)
    rate = {"epochs": 2, "learning_rate": 1e-2}
    tree = {
        "data": {
            "source": "arrays",
            "path": str(folder / "images.npz"),
            "batch_size": 8,
            "split": {"val": 0.2, "test": 0.2},
            "input": {"augmentation": "none"},
        },
        "backbone": {"name": str(converted["vit"])},
        "phases": [
            {"name": "head", "train": ["head"], **rate},
            {"name": "last", "train": ["head", "blocks[-1:]"], **rate},
        ],
        "trunk": {"mode": "on"},
        "training": {"end": "trained"},  # not the floor, which the colours suffice for
    }
    return train(parse_config(tree), str(folder / "run"))


@pytest.mark.slow
def test_a_run_trains_the_last_block_from_a_store_and_is_certified(run, converted):
    assert [row["stored"] for row in run.read_json("plan.json")["trunk"]] == [True, True]
    trained, original = load_model(run), load_backbone(str(converted["vit"])).model
    [old], [new] = (
        [x for x in flat_layers(model) if type(x).__name__ == "ViTEncoder"]
        for model in (original, trained)
    )
    same = [
        all((a == b).all() for a, b in zip(x.get_weights(), y.get_weights(), strict=True))
        for x, y in zip(old.encoder_layers, new.encoder_layers, strict=True)
    ]
    assert same == [True, False]
    assert run.read_json("evaluation.json")["accuracy"] > 0.9  # the classes differ in colour
    certified = run.read_json("certificate.json")["saved_model"]
    own = certified.get("saved_model", certified)
    assert own["max_difference"].keys() >= {"serving_default", "images", "features"}
    assert max(own["max_difference"].values()) <= own["tolerance"]
    assert Path(run.folder, "report.html").is_file()


@pytest.mark.slow
def test_a_finished_run_needs_the_folder_no_more(run, tmp_path, capsys):
    Image.fromarray(np.full((40, 50, 3), (230, 60, 60), np.uint8)).save(tmp_path / "red.png")
    assert cli.main(["predict", run.folder, str(tmp_path / "red.png")]) == 0
    assert "red.png" in capsys.readouterr().out
    assert cli.main(["plan", f"--config={run.path('config.yaml')}"]) == 0
    assert "transformer_block_2" in capsys.readouterr().out
