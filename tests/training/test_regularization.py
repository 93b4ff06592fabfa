"""L2 and L2-SP in a stock `model.fit`: their gradients, what they leave alone, two replicas."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones import Block
from ftkeras.errors import UserError
from ftkeras.phases import Phase, StagedUnfreezing, weights_of
from ftkeras.training.regularization import WeightPenalty

# Every image weighs 0, so that the penalty alone makes loss and gradients.
IMAGES = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
LABELS = np.zeros((16, 2), "float32")
NOTHING = np.zeros(16, "float32")


def small_model() -> tuple[keras.Model, list[Block]]:
    """Two blocks and a head, every weight 0.5."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="one"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="two"),
            keras.layers.Dense(2, name="logits"),
        ],
        name="small",
    )
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 0.5))
    blocks = [
        Block("one", (model.get_layer("one"), model.get_layer("norm"))),
        Block("two", (model.get_layer("two"),)),
    ]
    return model, blocks


def compile_sgd(model: keras.Model, **options: object) -> None:
    model.compile(keras.optimizers.SGD(0.1, **options), loss="mse", jit_compile=False)


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {"/".join(v.path.split("/")[-2:]): v.numpy() for v in model.trainable_variables}


def one_step(model: keras.Model, penalty: WeightPenalty) -> float:
    history = model.fit(
        IMAGES, LABELS, sample_weight=NOTHING, batch_size=16, verbose=0, callbacks=[penalty]
    )
    return float(history.history["loss"][0])


def test_a_step_follows_twice_the_strength_times_the_distance():
    model, blocks = small_model()
    penalty = WeightPenalty(weights_of(model, blocks).all, l2=0.3, l2_sp=0.7, new_blocks=["two"])
    assert [weight.path for weight in penalty.anchored] == ["one/kernel"]
    model.get_layer("one").kernel.assign(np.full((4, 3), 2.0))  # 1.5 from its anchor
    compile_sgd(model)
    loss = one_step(model, penalty)
    after = values(model)
    np.testing.assert_allclose(after["one/kernel"], 2.0 - 0.1 * 2 * 0.7 * 1.5, rtol=1e-6)
    np.testing.assert_allclose(after["two/kernel"], 0.5 - 0.1 * 2 * 0.3 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(after["logits/kernel"], 0.5 - 0.1 * 2 * 0.3 * 0.5, rtol=1e-6)
    for path in ("one/bias", "two/bias", "logits/bias", "norm/gamma", "norm/beta"):
        np.testing.assert_array_equal(after[path], 0.5)
    assert loss == pytest.approx(0.7 * 12 * 1.5**2 + 0.3 * 9 * 0.5**2 + 0.3 * 6 * 0.5**2, rel=1e-6)


def test_without_l2_sp_the_backbone_is_pulled_to_zero_too():
    model, blocks = small_model()
    penalty = WeightPenalty(weights_of(model, blocks).all, l2=0.3)
    assert not penalty.anchored
    compile_sgd(model)
    assert one_step(model, penalty) == pytest.approx(0.3 * 27 * 0.25, rel=1e-6)


def test_only_what_trains_in_a_phase_is_penalised_and_validation_never_is():
    model, blocks = small_model()
    penalty = WeightPenalty(weights_of(model, blocks).all, l2=0.25)
    compile_sgd(model)
    phases = [
        Phase("head", epochs=1, learning_rate=1e-9),
        Phase("top", train=["head", "block:two"], epochs=1, learning_rate=1e-9),
        Phase("all", train=["all"], epochs=1, learning_rate=1e-9),
    ]
    unfreeze = StagedUnfreezing(model, phases, blocks=blocks)
    history = model.fit(
        IMAGES,
        LABELS,
        sample_weight=NOTHING,
        validation_data=(IMAGES, LABELS, NOTHING),
        epochs=3,
        verbose=0,
        callbacks=[unfreeze, penalty],
    )
    counts = np.array([6, 6 + 9, 6 + 9 + 12])
    np.testing.assert_allclose(history.history["loss"], 0.25 * 0.25 * counts, rtol=1e-5)
    np.testing.assert_array_equal(history.history["val_loss"], 0)


def test_the_penalty_is_back_after_a_validation_that_broke_off():
    model, blocks = small_model()
    penalty = WeightPenalty(weights_of(model, blocks).all, l2=0.3)
    compile_sgd(model)
    penalty.on_test_begin()
    assert one_step(model, penalty) == pytest.approx(0.3 * 27 * 0.25, rel=1e-6)


def test_the_saved_model_knows_nothing_of_it(tmp_path):
    model, blocks = small_model()
    penalty = WeightPenalty(weights_of(model, blocks).all, l2=0.3, l2_sp=0.7)
    compile_sgd(model)
    one_step(model, penalty)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert "ftkeras" not in config
    assert all(
        layer["config"].get("kernel_regularizer") is None
        for layer in json.loads(config)["config"]["layers"]
    )
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.losses == []
    for path, value in values(loaded).items():
        np.testing.assert_array_equal(value, values(model)[path])


def test_a_resumed_run_has_the_same_anchor(tmp_path):
    """Pretrained weights, then the penalty, then the checkpoint."""
    model, blocks = small_model()
    penalty = WeightPenalty(weights_of(model, blocks).all, l2_sp=0.7)
    compile_sgd(model)
    model.get_layer("one").kernel.assign(np.full((4, 3), 2.0))
    model.save_weights(tmp_path / "last.weights.h5")
    again, again_blocks = small_model()
    again_penalty = WeightPenalty(weights_of(again, again_blocks).all, l2_sp=0.7)
    compile_sgd(again)
    again.load_weights(tmp_path / "last.weights.h5")
    assert one_step(model, penalty) == one_step(again, again_penalty) > 0
    np.testing.assert_array_equal(values(model)["one/kernel"], values(again)["one/kernel"])


def train(strategy: tf.distribute.Strategy) -> tuple[list[float], dict[str, np.ndarray]]:
    with strategy.scope():
        model, blocks = small_model()
        model.get_layer("norm").trainable = False  # its statistics would differ between replicas
        penalty = WeightPenalty(weights_of(model, blocks).all, l2=0.3, l2_sp=0.7)
        compile_sgd(model, momentum=0.5)
    labels = np.random.default_rng(1).normal(size=(16, 2))
    history = model.fit(
        IMAGES, labels, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[penalty]
    )
    return history.history["loss"], values(model)


def test_two_replicas_make_the_losses_and_weights_of_one(two_replicas):
    losses, one = train(tf.distribute.get_strategy())
    # One device reduces: two strategies with collectives in one process get in each other's way.
    both_losses, both = train(two_replicas)
    np.testing.assert_allclose(both_losses, losses, rtol=1e-5)
    for path, value in one.items():
        np.testing.assert_allclose(both[path], value, rtol=1e-4, atol=1e-6, err_msg=path)


def test_loss_scaling_and_half_precision_leave_the_penalty_as_it_is():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, blocks = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    penalty = WeightPenalty(weights_of(model, blocks).all, l2=1e-3)
    inner = keras.optimizers.SGD(0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10)
    model.compile(optimizer, loss="mse", jit_compile=False)
    one_step(model, penalty)
    # In half precision the step of 1e-4 would be lost or coarse.
    np.testing.assert_allclose(values(model)["one/kernel"], 0.5 - 1e-4, rtol=1e-6)


@pytest.mark.parametrize("name", ["l2", "l2_sp"])
def test_a_negative_strength_is_refused(name):
    with pytest.raises(UserError, match=f"{name}: the strength must be at least 0"):
        WeightPenalty([], **{name: -1.0})
