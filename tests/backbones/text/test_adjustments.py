"""Initialisation, rates, regularisation and activations of recurrent backbones."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.backbones.backbone import Backbone
from ftkeras.backbones.text.catalog import TEXT_CATALOG
from ftkeras.backbones.text.recurrent import Shape, build
from ftkeras.config.load import parse_config
from ftkeras.errors import UserError
from ftkeras.inputs.text.tokens import SPECIAL, Tokens, tokens_in
from ftkeras.model.assemble import build_model
from ftkeras.model.surgery import reinitialize, shrink_and_perturb, swap_activation_in
from ftkeras.runs.assemble import assemble

TOKENS = Tokens("words", (*SPECIAL, *"abcdefgh"), 16)
NAMES = [name for name in TEXT_CATALOG if name != "char_lstm"]
IDS = np.array([[3, 4, 5, 6, 0, 0], [7, 8, 3, 0, 0, 0]], np.int32)


def backbone(name: str, seed: int = 0) -> Backbone:
    return build(TEXT_CATALOG[name], TOKENS, shape=Shape(units=4, embedding=4, layers=2), seed=seed)


def values(made: Backbone) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in made.model.weights}


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layer_starts_afresh_and_the_others_stay(name):
    made, again = backbone(name), backbone(name)
    before = values(made)
    reinitialize(made.blocks[-1:], seed=1)
    reinitialize(again.blocks[-1:], seed=1)
    after = values(made)
    for path, value in after.items():
        np.testing.assert_array_equal(value, values(again)[path])
        changed = not np.array_equal(value, before[path])
        assert changed == ("_2" in path and not path.endswith("bias")), path
    kernels = [value for path, value in after.items() if path.endswith("_2_one/recurrent_kernel")]
    kernels += [v for p, v in after.items() if "_2" in p and p.endswith("recurrent_kernel")]
    for kernel in kernels:  # orthogonal, as it began
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(4), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_shrunk_and_perturbed(name):
    made = backbone(name)
    before = values(made)
    shrink_and_perturb(made.blocks, shrink=0.5, perturb=0.0, seed=0)
    for path, value in values(made).items():
        np.testing.assert_allclose(value, 0.5 * before[path], atol=1e-7)
    shrink_and_perturb(made.blocks, shrink=0.0, perturb=1.0, seed=0)
    fresh = backbone(name)
    reinitialize(fresh.blocks, seed=0)
    for path, value in values(made).items():
        np.testing.assert_allclose(value, values(fresh)[path], atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_an_activation_is_swapped_and_padding_still_counts_for_nothing(name):
    made = backbone(name)
    swapped, count = swap_activation_in(made, "tanh", "relu")
    assert count == (4 if "bi" in name else 2)
    assert tokens_in(swapped.model) == TOKENS
    for old, new in zip(made.model.weights, swapped.model.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert [b.name for b in swapped.blocks] == [b.name for b in made.blocks]
    features = swapped.model(IDS).numpy()
    assert (features[..., 4:] >= 0).all() and np.abs(
        features - made.model(IDS).numpy()
    ).max() > 0.01
    model = build_model(swapped, 2)
    np.testing.assert_allclose(model(IDS), model(np.pad(IDS, ((0, 0), (0, 9)))), atol=1e-5)
    with pytest.raises(UserError, match="has no 'gelu'.* It has: tanh"):
        swap_activation_in(made, "gelu", "relu")


def test_rates_and_penalties_reach_each_recurrent_layer(text_tree):
    tree = {**text_tree, "regularization": {"l2": 0.1, "l2_sp": 0.2}, "trunk": {"mode": "off"}}
    tree["phases"] = [
        {"name": "all", "train": ["all"], "epochs": 1, "learning_rate": 1e-2, "layer_decay": 0.5}
    ]
    made = assemble(parse_config(tree))
    [planned] = made.plan.phases
    shares = {weight.path: planned.shares[id(weight.variable)] for weight in planned.trained}
    by_kind = {
        kind: {share for path, share in shares.items() if kind in path}
        for kind in ("embedding", "lstm_1", "logits")
    }
    assert by_kind == {"embedding": {0.25}, "lstm_1": {0.5}, "logits": {1.0}}
    assert made.penalty is not None
    anchored = {weight.path.rpartition("/")[2] for weight in made.penalty.anchored}
    assert anchored == {"embeddings", "kernel", "recurrent_kernel"}
    [logits] = [w for w in made.model.weights if w.path.endswith("logits/kernel")]
    values = keras.ops.convert_to_numpy(logits)
    assert float(logits.regularizer(logits)) == pytest.approx(0.1 * (values**2).sum(), rel=1e-5)
