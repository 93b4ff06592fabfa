"""Phases, rates and audit on models that have nothing to do with images, from plain scripts."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.backbones import Block
from ftkeras.phases import Phase, StagedUnfreezing

TOKENS = np.random.default_rng(0).integers(1, 50, (24, 6))
LABELS = np.arange(24) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def lstm() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Embedding(50, 8, name="embedding", mask_zero=True),
            keras.layers.Bidirectional(keras.layers.LSTM(4), name="lstm"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def transformer() -> keras.Model:
    tokens = keras.Input((6,))
    x = keras.layers.Embedding(50, 8, name="embedding")(tokens)
    for number in (1, 2):
        attended = keras.layers.MultiHeadAttention(2, 4, name=f"attention_{number}")(x, x)
        x = keras.layers.LayerNormalization(name=f"norm_{number}")(x + attended)
        x = x + keras.layers.Dense(8, activation="gelu", name=f"mlp_{number}")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(3, name="logits")(x))


class Subclassed(keras.Model):
    """A model whose layers stand in a list and in a dict, with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = keras.layers.Embedding(50, 8)
        self.towers = [keras.layers.Dense(8, activation="relu", name=f"tower_{i}") for i in "ab"]
        self.pool = keras.layers.GlobalAveragePooling1D()
        self.top = keras.layers.Dense(3, name="logits")
        self.temperature = self.add_weight(shape=(), initializer="ones", name="temperature")

    def call(self, tokens):
        x = self.embedding(tokens)
        for tower in self.towers:
            x = tower(x)
        return self.top(self.pool(x)) / self.temperature


def nested() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8, name="d1"), keras.layers.Dense(8, name="d2")],
        name="inner",
    )
    middle_in = keras.Input((8,))
    middle = keras.Model(
        middle_in, keras.layers.Dense(8, name="d3")(inner(middle_in)), name="middle"
    )
    tokens = keras.Input((6,))
    x = keras.layers.Embedding(50, 8, name="embedding")(tokens)
    x = middle(keras.layers.GlobalAveragePooling1D()(x))
    return keras.Model(tokens, keras.layers.Dense(3, name="logits")(x))


def train(model: keras.Model, phases: list[Phase], blocks=None) -> list[set[str]]:
    """Returns, for each phase, which weights it moved (their paths in `weights_of`)."""
    model(TOKENS)
    model.compile(keras.optimizers.Adam(), LOSS, jit_compile=False)
    unfreeze = StagedUnfreezing(model, phases, blocks=blocks)
    states = [snapshot(unfreeze)]

    class Snapshots(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states.append(snapshot(unfreeze))

    callbacks = [unfreeze, Snapshots()]
    model.fit(TOKENS, LABELS, epochs=unfreeze.epochs, batch_size=8, callbacks=callbacks, verbose=0)
    for verdict in unfreeze.verdicts.values():
        assert not verdict.drifted
    return [
        {path for path in after if not np.array_equal(before[path], after[path])}
        for before, after in zip(states, states[1:], strict=False)
    ]


def snapshot(unfreeze: StagedUnfreezing) -> dict[str, np.ndarray]:
    return {weight.path: weight.variable.numpy() for weight in unfreeze.plan.weights.all}


HEAD = Phase("head", 1, 1e-2)


def test_an_lstm_text_classifier():
    first, second = train(lstm(), [HEAD, Phase("rnn", train=["head", "block:lstm"])])
    assert first == {"logits/kernel", "logits/bias"}
    # Keras numbers the two directions' names by what the process made before.
    opened = sorted(path.split("/")[0::3] for path in second - first)
    assert opened == sorted(
        ["lstm", name] for name in ("kernel", "recurrent_kernel", "bias") for _ in range(2)
    )


def test_a_small_transformer():
    first, second, third = train(
        transformer(),
        [HEAD, Phase("bias", train=["head", "bias"]), Phase("top", train=["head", "re:_2/"])],
    )
    assert first == {"logits/kernel", "logits/bias"}
    moved = {path.rsplit("/", 1)[-1] for path in second - first}
    assert moved == {"bias", "beta"}
    # A key's bias shifts all scores of a query alike, so its gradient is only rounding.
    assert {path.split("/")[0] for path in third - first} == {"attention_2", "norm_2", "mlp_2"}


def test_a_subclassed_model():
    model = Subclassed()
    model(TOKENS)
    blocks = [Block("low", (model.embedding, model.towers[0])), Block("high", (model.towers[1],))]
    phases = [
        HEAD,
        Phase("high", train=["head", "blocks[-1]"], layer_decay=0.5),
        Phase("all", train="all"),
    ]
    first, second, third = train(model, phases, blocks)
    assert first == {"temperature", "logits/kernel", "logits/bias"}
    assert second - first == {"tower_b/kernel", "tower_b/bias"}
    assert third - second == {"embedding/embeddings", "tower_a/kernel", "tower_a/bias"}


def test_a_nested_functional_model():
    first, second = train(
        nested(), [HEAD, Phase("d2", train=["head", "block:d2"], layer_decay=0.5)]
    )
    assert first == {"logits/kernel", "logits/bias"}
    assert second - first == {"middle/inner/d2/kernel", "middle/inner/d2/bias"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_with_loss_scaling(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = nested()
        first, second = train(model, [HEAD, Phase("d2", train=["head", "block:d2"])])
    finally:
        keras.config.set_dtype_policy(before)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    assert second - first == {"middle/inner/d2/kernel", "middle/inner/d2/bias"}
