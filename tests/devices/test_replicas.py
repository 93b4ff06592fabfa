"""Two replicas compute what one device does; and stock Keras still does not.

If a test of stock Keras fails, Keras has fixed something: take that part out of `replicas.py`.
`tests/doctor/test_parity.py` has more replicas, and workers.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.share import Rows
from ftkeras.devices.replicas import (
    ReplicaSteps,
    examples_of,
    own_steps,
    real_of,
    replica_class,
    replicated,
)
from ftkeras.devices.workers import share_of, spread
from ftkeras.phases.install import PhasedLossScale
from ftkeras.phases.optimizer import PhasedOptimizer
from ftkeras.training.unweighted import Unweighted

COUNT = 9  # in batches of 4: the last has one example, for two replicas
SGD = keras.optimizers.SGD


def data(count: int = COUNT) -> tf.data.Dataset:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(count, 3, 4)).astype("float32")
    labels = keras.utils.to_categorical(random.integers(0, 3, count), 3)
    weights = random.uniform(0.2, 2.0, count).astype("float32")
    weights[1] = 0.0  # an example like any other, and no padding
    return tf.data.Dataset.from_tensor_slices((inputs, labels, weights)).batch(4)


def model(optimizer: keras.optimizers.Optimizer, batch_norm: bool = False) -> keras.Model:
    """Returns a compiled model, which is made for replicas if it is made in their scope."""
    made = replicated(network(batch_norm))
    metrics = [
        Unweighted(keras.metrics.CategoricalAccuracy(name="accuracy")),
        Unweighted(keras.metrics.AUC(multi_label=True, from_logits=True, name="auc")),
    ]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    made.compile(optimizer, loss, weighted_metrics=metrics, jit_compile=False)
    optimizer.build(made.trainable_variables)
    return made


def network(batch_norm: bool = False) -> keras.Model:
    keras.utils.set_random_seed(0)
    penalty = keras.regularizers.L2(0.1)
    # No bias before batch norm: its gradient is zero except for rounding, which Adam makes a step
    # of.
    first = keras.layers.Dense(5, kernel_regularizer=penalty, use_bias=not batch_norm)
    layers = [keras.Input((3, 4)), first]
    if batch_norm:
        layers.append(keras.layers.BatchNormalization())
    layers += [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
    return keras.Sequential(layers)


CASES: dict[str, dict[str, Any]] = {
    "uneven batch": {},
    "uneven first batch": {"count": 3},
    "clipping": {"count": 8, "optimizer": lambda: SGD(0.5, global_clipnorm=0.1)},
    "accumulation": {"optimizer": lambda: SGD(0.5, gradient_accumulation_steps=2)},
    "batch norm": {"count": 8, "batch_norm": True},
    "all": {
        "optimizer": lambda: keras.optimizers.AdamW(
            0.01, weight_decay=0.1, gradient_accumulation_steps=2, global_clipnorm=0.5
        ),
    },
}


def trained(strategy: tf.distribute.Strategy, name: str, exact: bool) -> dict[str, np.ndarray]:
    """Returns what the steps log, what the epoch logs, and the weights."""
    case = CASES[name]
    with strategy.scope():
        optimizer, norm = case.get("optimizer", lambda: SGD(0.5))(), case.get("batch_norm", False)
        if exact:
            made = model(PhasedOptimizer(optimizer), norm)
        else:
            made, loss = network(norm), keras.losses.CategoricalCrossentropy(from_logits=True)
            made.compile(optimizer, loss, weighted_metrics=["accuracy"], jit_compile=False)
    batches = data(case.get("count", COUNT))
    if exact:
        batches = spread(share_of(batches, strategy), strategy)
    steps: list[dict[str, float]] = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: steps.append(logs))
    validation = batches if name in ("all", "batch norm") else None
    history = made.fit(
        batches, validation_data=validation, shuffle=False, callbacks=[note], verbose=0
    ).history
    return {
        "steps": np.array([[float(v) for v in logs.values()] for logs in steps]),
        "epoch": np.array(list(history.values())),
        "weights": np.concatenate([w.ravel() for w in made.get_weights()]),
    }


@functools.cache
def on_one_device(name: str) -> dict[str, np.ndarray]:
    return trained(tf.distribute.get_strategy(), name, exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uneven first batch", "batch norm", "all"])
def test_two_replicas_are_one_device(two_replicas, name):
    found = trained(two_replicas, name, exact=True)
    for key, values in on_one_device(name).items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("uneven batch", ["weights", "steps"]),
        ("uneven first batch", tf.errors.InvalidArgumentError),
        ("clipping", ["weights"]),
        ("accumulation", RuntimeError),
        ("batch norm", ["weights"]),
    ],
)
def test_stock_keras_differs(two_replicas, name, wrong):
    if isinstance(wrong, type):
        with pytest.raises(wrong):
            trained(two_replicas, name, exact=False)
        return
    found = trained(two_replicas, name, exact=False)
    for key in wrong:  # of the steps, the loss alone: the first column
        difference = np.abs(found[key].T[:1].T - on_one_device(name)[key].T[:1].T)
        assert difference.max() > 1e-3


@pytest.mark.slow
def test_an_overflow_on_any_replica_skips_the_step(two_replicas):
    inputs, labels, _ = next(iter(data(4)))
    heavy = tf.constant([1.0, 1.0, 1.0, 3e38])  # the second replica's; twice that is infinite
    batches = tf.data.Dataset.from_tensors((inputs, labels, heavy))
    batches = spread(share_of(batches, two_replicas), two_replicas)

    def weights(optimizer: Any) -> tuple[np.ndarray, np.ndarray]:
        with two_replicas.scope():
            made = model(optimizer())
        before = made.get_weights()[0]
        made.fit(batches, shuffle=False, verbose=0)
        return before, made.get_weights()[0]

    before, after = weights(lambda: PhasedLossScale(PhasedOptimizer(SGD(0.5)), initial_scale=64.0))
    np.testing.assert_array_equal(after, before)
    stock = weights(lambda: keras.optimizers.LossScaleOptimizer(SGD(0.5), initial_scale=64.0))
    assert not np.isfinite(stock[1]).all()


def test_one_replica_is_left_alone():
    plain = network()
    assert replicated(plain) is plain and replica_class(keras.Model) is keras.Model
    assert float(examples_of(tf.zeros((3, 2)))) == 3
    np.testing.assert_array_equal(real_of(tf.zeros((3, 2))), [1, 1, 1])


class Counting(keras.Model):
    """Notes what its own steps read of the rows, and adds to its loss."""

    def __init__(self, inputs: Any, outputs: Any, *, seen: list, **kwargs: Any):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._seen = lambda: seen

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:  # fmt: skip
        self._seen().append((examples_of(y), real_of(y), sample_weight))
        return super().compute_loss(x, y, y_pred, sample_weight, training) + 1.0


def test_a_model_with_steps_of_its_own_knows_the_rows(two_replicas):
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(1, kernel_initializer="zeros")(inputs)
    seen: list[Any] = []
    with two_replicas.scope():
        made = replica_class(Counting)(inputs, outputs, seen=seen, name="counting")
        assert isinstance(made, ReplicaSteps) and replicated(made) is made
        assert own_steps(made) == ["compute_loss"] and own_steps(replicated(network())) == []
        with pytest.raises(TypeError, match="Counting has its own compute_loss: make it by"):
            replicated(Counting(inputs, outputs, seen=seen))
        made.compile(SGD(), "mse", run_eagerly=True)
    weights, real = tf.constant([1.5, 1.5, 1.5, 0.0]), tf.constant([1.0, 1.0, 1.0, 0.0])
    rows = Rows(weights, real, tf.fill((4,), 0.75))
    x, y = tf.zeros((4, 2)), tf.constant([[1.0], [2.0], [3.0], [99.0]])
    loss = made.compute_loss(x, y, made(x), rows)
    [(examples, known, given)] = seen
    assert float(examples) == 3 and given is weights
    np.testing.assert_array_equal(known, real)
    # Outside of a step a loss is not divided among the replicas.
    np.testing.assert_allclose(float(loss), 1.5 * (1 + 4 + 9) / 4 + 1.0, rtol=1e-6)


def test_metrics_count_each_example_once():
    labels, answers = np.eye(3, dtype="float32"), np.eye(3, dtype="float32")[[0, 1, 0]]
    for weights, expected in (
        (None, 2 / 3),
        ([5.0, 0.1, 0.1], 2 / 3),
        ([0.0, 2.0, 3.0], 1 / 2),  # one is not known
        ([0.0, 0.0, 9.0], 0.0),
    ):
        metric = Unweighted(keras.metrics.CategoricalAccuracy(name="accuracy"))
        weights = None if weights is None else tf.constant(weights)
        metric.update_state(labels, answers, weights)
        assert metric.name == "accuracy" and float(metric.result()) == pytest.approx(expected)
        metric.reset_state()
        assert float(metric.result()) == 0.0
    assert len(metric.variables) == 2  # the other metric's, which a checkpoint holds
