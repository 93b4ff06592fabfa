"""Phases, rates and audit on models that have nothing to do with images, from plain scripts."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones import Block
from ftkeras.phases import Phase, StagedUnfreezing

TOKENS = np.random.default_rng(0).integers(1, 50, (24, 6))
LABELS = np.arange(24) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# keras-hub hands its own `fit` a data set, and so Keras a needless `shuffle`.
IGNORED = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")


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
        self.embedding = keras.layers.Embedding(50, 8, name="embedding")
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


class OwnStep(keras.Model):
    """A model whose train step is its owner's, with a penalty on the answers."""

    def train_step(self, data):
        tokens, labels = data
        with tf.GradientTape() as tape:
            answers = self(tokens, training=True)
            loss = LOSS(labels, answers) + 0.1 * tf.reduce_mean(answers**2)
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


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


def test_a_train_step_of_ones_own():
    graph = transformer()
    model = OwnStep(graph.input, graph.output)
    first, second = train(model, [HEAD, Phase("norm", train=["norm"])])
    assert first == {"logits/kernel", "logits/bias"}
    assert second == {f"norm_{n}/{part}" for n in (1, 2) for part in ("gamma", "beta")}


def fit_classifier(model: keras.Model, inputs: object, phases: list[Phase]) -> StagedUnfreezing:
    """Fits a classifier of keras-hub, and checks what moved."""
    model.compile(optimizer=keras.optimizers.Adam(), loss=LOSS, jit_compile=False)
    unfreeze = StagedUnfreezing(model, phases)
    before = snapshot(unfreeze)
    options = {"batch_size": 4, "epochs": unfreeze.epochs, "verbose": 0}
    model.fit(inputs, np.arange(8) % 2, callbacks=[unfreeze], **options)
    opened = {weight.path for phase in unfreeze.plan.phases for weight in phase.trained}
    after = snapshot(unfreeze)
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved == opened < set(after)
    assert list(unfreeze.verdicts) == [phase.name for phase in phases]
    return unfreeze


@IGNORED
def test_a_text_classifier_of_keras_hub_with_its_preprocessor_inside_fit():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "the", "a"]
    hub = keras_hub.models
    backbone = hub.BertBackbone(
        vocabulary_size=len(words), num_layers=2, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=8,
    )  # fmt: skip
    model = hub.BertTextClassifier(
        backbone=backbone,
        num_classes=2,
        preprocessor=hub.BertTextClassifierPreprocessor(
            hub.BertTokenizer(vocabulary=words), sequence_length=8
        ),
    )
    top = Phase("top", train=["head", "re:transformer_layer_1/feedforward"], layer_decay=0.5)
    unfreeze = fit_classifier(model, ["the good film", "a bad film"] * 4, [HEAD, top])
    assert {w.path for w in unfreeze.plan.phases[0].trained} == {"logits/kernel", "logits/bias"}
    assert unfreeze.plan.weights.blocks[-3:] == (
        "transformer_layer_0", "transformer_layer_1", "pooled_dense"
    )  # fmt: skip


@IGNORED
def test_an_image_classifier_of_keras_hub():
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64],
        stackwise_num_blocks=[1], stackwise_num_strides=[1], block_type="basic_block",
        image_shape=(8, 8, 3),
    )  # fmt: skip
    model = keras_hub.models.ResNetImageClassifier(backbone=backbone, num_classes=2)
    images = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)).astype("float32")
    unfreeze = fit_classifier(model, images, [HEAD, Phase("last", train=["head", "blocks[-2:]"])])
    frozen = unfreeze.verdicts["last"].frozen
    assert frozen == len(model.variables) - unfreeze.verdicts["last"].trained


class OwnBlock(keras.layers.Layer):
    """A block of a person's own: without `get_config`, and made of what cannot be written down."""

    def __init__(self, act) -> None:
        super().__init__()
        self.dense, self.act = keras.layers.Dense(8), act

    def call(self, x):
        return self.act(self.dense(x))


def fails_for_other_batches(x):
    if x.shape[0] in (None, 8):
        return x
    raise RuntimeError("only batches of 8")


@pytest.mark.parametrize(
    "act", [lambda x: x * 2, fails_for_other_batches], ids=["a function", "fails when traced"]
)
def test_layers_that_no_forecast_of_memory_can_read_train_all_the_same(act):
    tokens = keras.Input((6,))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(50, 8)(tokens))
    model = keras.Model(tokens, keras.layers.Dense(3, name="logits")(OwnBlock(act)(x)))
    model.compile("adam", LOSS, jit_compile=False)
    unfreeze = StagedUnfreezing(model, [HEAD, Phase("all", train="all")])
    before = model.get_layer("logits").get_weights()[0]
    model.fit(TOKENS, LABELS, epochs=2, batch_size=8, callbacks=[unfreeze], verbose=0)
    assert not np.array_equal(before, model.get_layer("logits").get_weights()[0])
    assert unfreeze.plan.phases[1].activation_bytes > 0
    assert unfreeze.plan.phases[1].gradient_bytes == 4 * (50 * 8 + 8 * 8 + 8 + 8 * 3 + 3)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_answers_that_are_whole_numbers_carry_no_gradient_to_what_they_come_from():
    class Hard(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(8)

        def call(self, x):
            return keras.ops.argmax(self.dense(x), axis=-1)

    vectors = keras.Input(batch_shape=(8, 4))
    x = keras.layers.Embedding(8, 4)(Hard()(vectors))
    model = keras.Model(vectors, keras.layers.Dense(3, name="logits")(x))
    model.compile("adam", LOSS, jit_compile=False)
    unfreeze = StagedUnfreezing(model, [Phase("all", 1, 1e-2, ["all"])])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model.fit(x, LABELS[:8], epochs=1, batch_size=8, callbacks=[unfreeze], verbose=0)
    assert unfreeze.plan.phases[0].activation_bytes == 4 * 4  # what the last kernel multiplies
