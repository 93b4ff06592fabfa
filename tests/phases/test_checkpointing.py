"""Gradient checkpointing changes what is kept, and no number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones import Block
from ftkeras.errors import UserError
from ftkeras.graph import GraphModel, flatten
from ftkeras.model.lora import add_lora
from ftkeras.phases import Phase, Plan, make_plan, weights_of
from ftkeras.phases.checkpointing import check_checkpointing, checkpointed

LENGTH, STEPS = 6, 2


def bert(dropout: float = 0.3) -> tuple[keras.Model, list[Block], dict[str, np.ndarray]]:
    """A BERT of three layers, with dropout, under a head; and a batch of 4 texts."""
    from keras_hub.models import BertBackbone

    backbone = BertBackbone(20, 3, 2, 8, 16, dropout=dropout, max_sequence_length=LENGTH)
    features = backbone.output["sequence_output"][:, 0]
    model = keras.Model(backbone.input, keras.layers.Dense(2, name="logits")(features))
    blocks = [Block(layer.name, (layer,)) for layer in backbone.transformer_layers]
    random = np.random.default_rng(0)
    batch = {x.name: np.ones((4, LENGTH), "int32") for x in backbone.inputs}
    batch["token_ids"] = random.integers(0, 20, (4, LENGTH)).astype("int32")
    batch["padding_mask"][:2, 4:] = 0
    return model, blocks, batch


def cnn() -> tuple[keras.Model, list[Block], np.ndarray]:
    """Three blocks of convolution, batch norm and dropout, the second with a shortcut."""
    inputs = x = keras.Input((8, 8, 3))
    blocks = []
    for name in "abc":
        layers = (
            keras.layers.Conv2D(4, 3, padding="same", name=f"conv_{name}"),
            keras.layers.BatchNormalization(name=f"norm_{name}"),
        )
        y = keras.layers.ReLU()(layers[1](layers[0](x)))
        x = keras.layers.Add()([x, keras.layers.Dropout(0.2)(y)]) if name == "b" else y
        blocks.append(Block(name, layers))
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(pooled))
    return model, blocks, np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def lora() -> tuple[keras.Model, list[Block], dict[str, np.ndarray]]:
    """The same BERT with adapters, which alone train."""
    model, blocks, batch = bert()
    add_lora(keras.Model(model.input, model.layers[-1].input), rank=2)
    return model, blocks, batch


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    yield
    keras.config.set_dtype_policy("float32")


def after(
    make: Callable, checkpointing: bool, train: str = "all", **how: Any
) -> tuple[list[np.ndarray], Plan]:
    """All variables after two steps, and the plan."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(how.get("policy", "float32"))
    with how.get("strategy", tf.distribute.get_strategy()).scope():
        return in_scope(make, checkpointing, train, how)


def in_scope(
    make: Callable, checkpointing: bool, train: str, how: dict[str, Any]
) -> tuple[list[np.ndarray], Plan]:
    model, blocks, batch = make()
    weights = weights_of(model, blocks)
    phase = Phase("one", 1, 0.1, train=[train], batch_norm="train")
    plan = make_plan(model, weights, [phase], length=LENGTH, checkpointing=checkpointing)
    trained = {id(weight.variable) for weight in plan.phases[0].trained}
    for weight in weights.all:
        weight.variable.trainable = id(weight.variable) in trained
    labels = np.eye(2, dtype="float32")[[0, 1, 1, 0]]
    graph = flatten(model)
    assert graph is not None
    fitted = GraphModel(graph, "tail", model) if how.get("tail") else model
    # A plain rule, so that bare gradients are compared: a second moment would hide their sizes.
    sgd = keras.optimizers.SGD(0.1)
    # Its usual scale is for larger networks: here the first steps would overflow and be skipped.
    scaled = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=4.0)
    half = how.get("policy") == "mixed_float16"
    fitted.compile(scaled if half else sgd, "mse", jit_compile=how.get("jit", False))
    with checkpointed(fitted, plan):
        for _ in range(STEPS):
            fitted.train_on_batch(batch, labels)
    assert "call" not in vars(fitted)  # nothing of it is saved or exported
    return [keras.ops.convert_to_numpy(x) for x in model.variables], plan


@pytest.mark.parametrize(
    ("make", "train", "how"),
    [
        (bert, "all", {}),
        (lora, "lora", {}),
        (cnn, "all", {"tail": True}),
        (cnn, "blocks[-2:]", {"jit": True}),
    ],
)
def test_all_variables_are_equal_after_steps(make, train, how):
    plain, _ = after(make, False, train, **how)
    again, plan = after(make, True, train, **how)
    assert plan.phases[0].activation_bytes == plan.phases[0].checkpointed_bytes
    assert len(plain) == len(again)
    for one, other in zip(plain, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_two_replicas_in_half_precision_train_alike(two_replicas, policy):
    """To the bit: the second computation of a block is the first one's operations."""
    keras.utils.set_random_seed(1)
    kernel = cnn()[0].variables[0].numpy()
    plain, _ = after(cnn, False, strategy=two_replicas, policy=policy)
    again, _ = after(cnn, True, strategy=two_replicas, policy=policy)
    for one, other in zip(plain, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (kernel != plain[0]).any()  # no step overflowed


def test_blocks_before_the_last_run_once_more_in_the_backward_pass():
    model, blocks, batch = cnn()
    model.compile("sgd", "mse")
    plan = make_plan(model, weights_of(model, blocks), [Phase("one", 1, 0.1)], checkpointing=True)

    def gradients(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    with checkpointed(model, plan):
        graph = tf.function(gradients).get_concrete_function(batch).graph
    assert [op.type for op in graph.get_operations()].count("Conv2D") == 3 + 2


def test_models_without_such_blocks_are_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return super().call(inputs)

    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(2)(inputs)
    own, one = Own(inputs, outputs), keras.Model(inputs, outputs)
    for model, why in [(own, "not functional"), (one, "no block before its last one")]:
        with pytest.raises(UserError, match=f"training.gradient_checkpointing: .*{why}"):
            check_checkpointing(model, weights_of(model))
