"""How much each head's loss counts: given, by uncertainty, by gradient norms."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.config.schema import OptimizerConfig
from ftkeras.devices.replicas import replica_class
from ftkeras.devices.workers import share_of, spread
from ftkeras.phases import weights_of
from ftkeras.runs.optimizer import make_optimizer
from ftkeras.tasks.multi_task.weighting import (
    GradNormWeighed,
    UncertaintyWeighed,
    WeighedHeads,
    balanced_weights,
)
from ftkeras.training.unweighted import Unweighted

KINDS: dict[str, Any] = {
    "fixed": lambda *args, **kw: replica_class(WeighedHeads)(*args, **kw),
    "uncertainty": lambda *args, **kw: replica_class(UncertaintyWeighed)(
        *args, squared=("size",), **kw
    ),
    "gradnorm": lambda *args, **kw: replica_class(GradNormWeighed)(*args, **kw),
}
WEIGHTS = {"kind": 2.0, "size": 0.5}
LOSSES = {
    "kind": lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
    "size": keras.losses.MeanSquaredError,
}


def data(count: int = 9) -> tuple[Any, Any, Any]:
    """Inputs, targets and weights; of the first four examples the size is unknown."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(count, 4)).astype("float32")
    kind = keras.utils.to_categorical(random.integers(0, 3, count), 3).astype("float32")
    size = random.normal(size=(count, 1)).astype("float32")
    known = np.ones(count, "float32")
    known[:4] = 0
    targets = {"kind": kind, "size": size}
    return inputs, targets, {"kind": np.ones(count, "float32"), "size": known / known.mean()}


def batches(size: int = 4) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(data()).batch(size)


def model(kind: str, optimizer: Any = None, jit: bool = False) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(5, activation="tanh", name="shared")(inputs)
    outputs = {
        "kind": keras.layers.Dense(3, name="logits_kind")(shared),
        "size": keras.layers.Dense(1, name="logits_size")(shared),
    }
    made = KINDS[kind](inputs, outputs, weights=WEIGHTS)
    losses = {name: make() for name, make in LOSSES.items()}
    made.compile(
        optimizer or keras.optimizers.SGD(0.1),
        loss=losses,
        weighted_metrics={"kind": [Unweighted(keras.metrics.CategoricalAccuracy(name="accuracy"))]},
        jit_compile=jit,
    )
    return made


def by_hand(made: Any) -> dict[str, float]:
    """Each head's mean loss over the examples whose answer is known."""
    inputs, targets, weights = data()
    said = {name: x.numpy() for name, x in made(inputs).items()}
    kind = tf.nn.softmax_cross_entropy_with_logits(targets["kind"], said["kind"]).numpy()
    known = weights["size"] > 0
    return {
        "kind": float(kind.mean()),
        "size": float(((said["size"] - targets["size"])[known] ** 2).mean()),
    }


def test_the_loss_is_the_weighted_sum_of_means_over_what_is_known():
    made = model("fixed")
    losses = by_hand(made)
    found = made.evaluate(batches(9), return_dict=True, verbose=0)
    assert found["size_loss"] == pytest.approx(losses["size"], rel=1e-5)
    assert found["loss"] == pytest.approx(2 * losses["kind"] + 0.5 * losses["size"], rel=1e-5)
    assert "kind_weight" not in found  # it is given


def test_what_training_weighs_otherwise_is_measured_as_given():
    made = model("uncertainty")
    made.log_variances.assign([1.0, -1.0])
    losses = by_hand(made)
    found = made.evaluate(batches(9), return_dict=True, verbose=0)
    assert found["loss"] == pytest.approx(2 * losses["kind"] + 0.5 * losses["size"], rel=1e-5)


def test_uncertainty_is_the_likelihood_of_the_paper():
    made = model("uncertainty", keras.optimizers.SGD(1.0))
    made.log_variances.assign([1.0, -1.0])
    losses = by_hand(made)
    found = made.train_on_batch(*data(), return_dict=True)
    expected = 2 * (losses["kind"] * np.exp(-1) + 0.5) + 0.5 * (losses["size"] / 2 * np.e - 0.5)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["size_weight"] == pytest.approx(0.5 * 0.5 * np.e)
    # d/ds of w (L exp(-s) + s / 2), one step of rate 1 against it
    slopes = [2 * (0.5 - losses["kind"] * np.exp(-1)), 0.5 * (0.5 - losses["size"] / 2 * np.e)]
    moved = made.log_variances.numpy()
    np.testing.assert_allclose(moved, [1 - slopes[0], -1 - slopes[1]], rtol=1e-4)


def test_log_variances_train_with_the_head_and_do_not_decay():
    made = model("uncertainty")
    weights = weights_of(made)
    [own] = [w for w in weights.all if w.path == "log_variances"]
    assert own.block is None
    optimizer = make_optimizer(OptimizerConfig(name="adamw", weight_decay=0.1), weights)
    assert not optimizer._use_weight_decay(own.variable)
    assert optimizer._use_weight_decay(made.get_layer("logits_kind").kernel)


def test_a_step_of_gradnorm_by_hand():
    # Norms 1 x 4 and 1 x 2, mean 3; both losses have fallen alike: the norms shall be equal. Slopes
    # 4/3 and -2/3; weights 1 - 0.3 x 4/3 = 0.6 and 1 + 0.3 x 2/3 = 1.2, then scaled to sum to 2.
    found = balanced_weights(
        tf.constant([1.0, 1.0]),
        tf.constant([4.0, 2.0]),
        tf.constant([0.5, 0.5]),
        tf.constant([1.0, 1.0]),
        alpha=1.5,
        rate=0.3,
    )
    np.testing.assert_allclose(found.numpy(), [0.6 * 2 / 1.8, 1.2 * 2 / 1.8], rtol=1e-6)


def test_gradnorm_favours_what_lags_and_leaves_what_is_not_there():
    ones, norms = tf.ones(3), tf.constant([1.0, 1.0, 0.0])
    there = tf.constant([1.0, 1.0, 0.0])
    found = balanced_weights(ones, norms, tf.constant([0.9, 0.1, 0.0]), there, 1.0, 0.01).numpy()
    assert found[0] > found[2] > found[1]
    assert found.sum() == pytest.approx(3.0)
    alone = tf.constant([0.0, 1.0, 0.0])
    same = balanced_weights(ones, tf.constant([0.0, 0.3, 0.0]), ones * 0.7, alone, 1.0, 0.01)
    np.testing.assert_array_equal(same.numpy(), [1, 1, 1])


def test_gradnorm_measures_the_gradient_at_the_shared_features():
    made = model("gradnorm")
    inputs, targets, weights = data()
    features = keras.Model(made.inputs[0], made.get_layer("shared").output)(inputs)
    losses, norms = by_hand(made), []
    for name in WEIGHTS:
        with tf.GradientTape() as tape:
            tape.watch(features)
            said = made.get_layer(f"logits_{name}")(features)
            loss = LOSSES[name]()(targets[name], said, sample_weight=weights[name])
        norms.append(float(tf.norm(tape.gradient(loss, features))))
    made.train_on_batch(inputs, targets, weights)
    np.testing.assert_allclose(made.first_losses.numpy(), list(losses.values()), rtol=1e-5)
    ones = tf.ones(2)
    expected = balanced_weights(
        tf.constant(list(WEIGHTS.values())), tf.constant(norms), ones, ones, 1.5, 0.025
    )
    np.testing.assert_allclose(made.head_weights.numpy(), expected.numpy(), rtol=1e-5)


def trained(kind: str, strategy: tf.distribute.Strategy) -> list[np.ndarray]:
    with strategy.scope():
        made = model(kind)
    steps: list[list[float]] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: steps.append([float(v) for v in logs.values()])
    )
    uneven = spread(share_of(batches(), strategy), strategy)  # 4, 4, and 1 for two replicas
    history = made.fit(
        uneven, validation_data=uneven, epochs=2, shuffle=False, callbacks=[note], verbose=0
    )
    return [*made.get_weights(), np.array(steps), np.array(list(history.history.values()))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_replicas_are_one_device(two_replicas, kind):
    one = trained(kind, tf.distribute.get_strategy())
    for found, expected in zip(trained(kind, two_replicas), one, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm"])
def test_the_train_step_compiles_with_xla(kind):
    losses = [
        model(kind, jit=jit).fit(batches(), epochs=2, shuffle=False, verbose=0).history["loss"]
        for jit in (False, True)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
