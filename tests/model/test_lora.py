"""Adapters: what they add, that the base stays, that they are saved alone, and how they merge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.errors import UserError
from ftkeras.keras_internals import variables_inside
from ftkeras.model.lora import add_lora, factors, is_adapter, load_adapters, merge_lora

L = keras.layers
RANDOM = np.random.default_rng(0)
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "Dense": (lambda: L.Dense(5, "relu"), (3, 4)),
    "EinsumDense": (lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), (3, 4)),
    "Embedding": (lambda: L.Embedding(7, 4), (6,)),
    "Conv1D": (lambda: L.Conv1D(5, 3, 2), (9, 4)),
    "Conv2D": (lambda: L.Conv2D(5, 3, padding="same", use_bias=False), (5, 5, 4)),
    "pointwise": (lambda: L.Conv2D(5, 1), (5, 5, 4)),
    "Conv3D": (lambda: L.Conv3D(5, 2), (3, 3, 3, 4)),
}


def fill(adapters: ftkeras.Adapters) -> None:
    """Gives all factors values, as training does."""
    for layer in adapters.layers:
        for factor in factors(layer):
            factor.assign(RANDOM.normal(size=factor.shape))


@pytest.mark.parametrize("name", LAYERS)
def test_a_merged_weight_is_the_base_plus_the_scaled_product(name):
    make, shape = LAYERS[name]
    is_table = name == "Embedding"
    inputs = keras.Input(shape, dtype="int32" if is_table else "float32")
    model = keras.Model(inputs, make()(inputs))
    x = RANDOM.integers(0, 7, (2, *shape)) if is_table else RANDOM.normal(size=(2, *shape))
    base, before = model.layers[1].weights[0], model(x).numpy()
    start = base.numpy()
    adapters = add_lora(model, rank=2, alpha=6)
    np.testing.assert_array_equal(model(x), before)
    fill(adapters)
    a, b = (factor.numpy() for factor in factors(model.layers[1]))
    merged = merge_lora(model)
    expected = start + 6 / 2 * np.einsum("...r,rf->...f", a, b)
    np.testing.assert_allclose(merged.layers[1].weights[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(merged(x), model(x), rtol=1e-4, atol=1e-4)
    assert len(merged.weights) == len(model.weights) - 2
    assert "lora_rank" not in merged.layers[1].get_config()
    np.testing.assert_array_equal(base, start)


def network() -> keras.Model:
    """Returns a model with a norm, attention, and layers that cannot have an adapter."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 4))
    x = L.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Conv2D(4, 3, padding="same", groups=2, name="grouped")(x)
    x = L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = L.Reshape((16, 4))(x)
    x = L.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = L.Dense(4, kernel_constraint="non_neg", name="constrained")(x)
    return keras.Model(inputs, L.GlobalAveragePooling1D()(x), name="network")


def with_head(backbone: keras.Model, classes: int = 3) -> keras.Model:
    model = keras.Sequential([backbone, L.Dense(classes, name="logits")])
    model.compile(keras.optimizers.Adam(), "mse", jit_compile=False)
    return model


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, ["query", "value"]),
        ("all", ["conv", "query", "key", "value", "attention_output"]),
        (["re:^attention/.*put$", "conv"], ["conv", "attention_output"]),
        ("attention/key", ["key"]),
    ],
)
def test_targets(targets, expected):
    assert [x.name for x in add_lora(network(), rank=2, targets=targets).layers] == expected


def test_without_attention_all_layers_have_adapters():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="a"), L.Dense(3, name="b")])
    assert [layer.name for layer in add_lora(model).layers] == ["a", "b"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("depthwise", "'depthwise' matches nothing. .* 5 layers of network .*: conv, attention/qu"),
        (["all", "re:grouped"], "'re:grouped' matches nothing"),
        ("re:(", "not a regular expression"),
    ],
)
def test_what_matches_nothing_is_an_error_that_names_the_choices(targets, message):
    with pytest.raises(UserError, match=message):
        add_lora(network(), targets=targets)


def test_nothing_to_adapt_and_adapters_twice_are_errors():
    plain = keras.Sequential([keras.Input((4, 4, 1)), L.DepthwiseConv2D(3)])
    with pytest.raises(UserError, match="No layer of .* can have an adapter; Dense, Einsum"):
        add_lora(plain)
    model = network()
    add_lora(model)
    with pytest.raises(UserError, match="'query' has an adapter already"):
        add_lora(model, targets="all")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, keras.Model, dict[str, bytes], Any]:
    """Adapters that a script has trained with the head and the norm, and saved.

    Returns:
        The file, the model, the bytes of the base before by path, and the callback.
    """
    backbone = network()
    model = with_head(backbone)
    before = {v.path: v.numpy().tobytes() for v in backbone.variables}
    adapters = add_lora(backbone, rank=2, targets="all", seed=3)
    phases = [
        ftkeras.Phase("head", 1, 1e-2, train=["head"]),
        ftkeras.Phase("lora", 2, 1e-2, train=["head", "lora", "norm"]),
    ]
    blocks = [ftkeras.Block("network", tuple(backbone.layers))]
    unfreeze = ftkeras.StagedUnfreezing(model, phases, blocks=blocks)
    images, targets = RANDOM.normal(size=(8, 4, 4, 4)), RANDOM.normal(size=(8, 3))
    model.fit(images, targets, batch_size=4, epochs=3, callbacks=[unfreeze], verbose=0)
    path = tmp_path_factory.mktemp("lora") / "adapters.npz"
    adapters.save(path, model)
    return path, model, before, unfreeze


def test_a_phase_trains_the_adapters_and_leaves_the_base(trained):
    _, model, before, unfreeze = trained
    after = {v.path: v.numpy().tobytes() for v in model.layers[0].variables}
    changed = {path for path, value in before.items() if after[path] != value}
    assert changed == {"norm/gamma", "norm/beta"}
    head, lora = unfreeze.plan.phases
    sizes = [own for own in variables_inside(model) if is_adapter(own.variable, own.layer)]
    adapters = sum(int(np.prod(own.variable.shape)) for own in sizes)
    assert (head.parameters, lora.parameters) == (15, 15 + 8 + adapters)
    assert not unfreeze.verdicts["lora"].drifted
    assert unfreeze.verdicts["lora"].trained == 2 + 2 + len(sizes)


def test_adapters_alone_restore_the_model_on_the_same_base(trained):
    path, model, before, _ = trained
    assert path.stat().st_size < 30_000
    backbone = network()
    other = with_head(backbone)
    assert {v.path: v.numpy().tobytes() for v in backbone.variables} == before
    adapters = load_adapters(path, backbone, other)
    images = RANDOM.normal(size=(5, 4, 4, 4))
    np.testing.assert_array_equal(other(images), model(images))
    again = path.with_name("again.npz")
    adapters.save(again, other)  # the base of what was loaded is still the first one
    assert load_adapters(again, network()).checksum == adapters.checksum


def test_another_base_head_or_file_is_refused(trained, tmp_path):
    path = trained[0]
    backbone = network()
    backbone.get_layer("norm").moving_mean.assign([0.0, 0.0, 0.0, 1e-6])
    with pytest.raises(UserError, match=r"belongs to another base: its checksum is \w{32}"):
        load_adapters(path, backbone)
    assert not any("lora" in v.name for v in backbone.variables)
    backbone = network()
    with pytest.raises(UserError, match=r"another head \(\(4, 3\), \(3,\)\) than the model"):
        load_adapters(path, backbone, with_head(backbone, classes=2))
    with pytest.raises(UserError, match="no file '/none'"):
        load_adapters("/none", backbone)
    for content in (b"no archive", path.read_bytes()[:-300]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(UserError, match="is damaged, or not a file of adapters"):
            load_adapters(tmp_path / "bad.npz", backbone)
    np.savez(tmp_path / "pickled.npz", about=np.array([{"version": 1}], object))
    with pytest.raises(UserError, match="is damaged, or not a file of adapters"):
        load_adapters(tmp_path / "pickled.npz", backbone)


def test_the_selector_base_trains_what_no_other_selector_does(tmp_path):
    backbone = network()
    model = with_head(backbone)
    adapters = add_lora(backbone, rank=2)
    query = backbone.get_layer("attention").query_dense
    start = query.weights[0].numpy()
    phases = [
        ftkeras.Phase("all", 1, 1e-2, train=["all"]),
        ftkeras.Phase("base", 1, 1e-2, train=["head", "base"]),
        ftkeras.Phase("again", 1, 1e-2, train=["all"]),
    ]
    unfreeze = ftkeras.StagedUnfreezing(model, phases)
    bases = [weight.path for weight in unfreeze.plan.weights.all if weight.is_base]
    assert [path.split("/")[-2] for path in bases] == ["query", "value"]
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(query.weights[0].numpy())
    )
    images, targets = RANDOM.normal(size=(8, 4, 4, 4)), RANDOM.normal(size=(8, 3))
    model.fit(images, targets, epochs=3, callbacks=[unfreeze, look], verbose=0)
    np.testing.assert_array_equal(seen[0], start)
    assert not np.array_equal(seen[1], start)
    np.testing.assert_array_equal(seen[2], seen[1])
    with pytest.raises(UserError, match="the weights under them have been trained"):
        adapters.save(tmp_path / "adapters.npz")


def test_what_trains_is_checked():
    model = with_head(network())
    for selector in ("lora", "base"):
        with pytest.raises(UserError, match=f"'{selector}' selects nothing: the model has no adap"):
            ftkeras.StagedUnfreezing(model, [ftkeras.Phase("a", 1, 1e-2, train=[selector])])
    add_lora(model.layers[0])
    plan = ftkeras.StagedUnfreezing(model, [ftkeras.Phase("a", 1, 1e-2)]).plan
    assert any("no phase trains the adapters" in warning for warning in plan.warnings)


def test_a_merged_model_of_half_floats_keeps_the_precision_of_its_weights(tmp_path):
    policy = keras.DTypePolicy("mixed_bfloat16")
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, dtype=policy)])
    fill(add_lora(model, rank=2, alpha=2))
    [layer] = model.layers
    a, b = (factor.numpy() for factor in factors(layer))
    expected = layer.weights[0].numpy() + a @ b
    merged = merge_lora(model)
    np.testing.assert_allclose(merged.weights[0], expected, rtol=1e-6)
    merged.save(tmp_path / "merged.keras")
    loaded = keras.models.load_model(tmp_path / "merged.keras")
    np.testing.assert_array_equal(loaded.weights[0], merged.weights[0])
    assert merge_lora(loaded) is loaded


@pytest.mark.skipif(sys.version_info < (3, 11), reason="keras-hub needs Python 3.11")
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_backbones_of_keras_hub(kind, tmp_path):
    import keras_hub

    keras.utils.set_random_seed(0)
    if kind == "bert":
        backbone = keras_hub.models.BertBackbone(20, 2, 2, 8, 8, max_sequence_length=6)
        inputs: Any = {"token_ids": RANDOM.integers(0, 20, (2, 6))}
        inputs |= {"segment_ids": np.zeros((2, 6), int), "padding_mask": np.ones((2, 6), int)}
    else:
        backbone = keras_hub.models.ViTBackbone((16, 16, 3), 8, 2, 2, 8, 8)
        inputs = RANDOM.normal(size=(2, 16, 16, 3))
    names = [layer.name for layer in add_lora(backbone, rank=2).layers]
    assert names in (["query", "value"] * 2, ["query_dense", "value_dense"] * 2)
    backbone = merge_lora(backbone)
    before = keras.tree.flatten(backbone(inputs))
    adapters = add_lora(backbone, rank=2, targets="all")
    assert len(adapters.layers) > 10
    path = tmp_path / "adapters.npz"
    fill(adapters)
    adapters.save(path)
    merged = merge_lora(backbone)
    after = keras.tree.flatten(merged(inputs))
    assert not any("lora" in v.path for v in merged.variables)
    for expected, found, was in zip(
        keras.tree.flatten(backbone(inputs)), after, before, strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert not np.allclose(found, was)
