"""Phases that end within an epoch or on a metric, and what a phase changes besides weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.errors import TrainingError, UserError
from ftkeras.phases import Phase, Smoothed, StagedUnfreezing, Until
from ftkeras.phases.recalibrate import recalibrate_batch_norm

INPUTS = np.random.default_rng(0).normal(3.0, 2.0, (16, 4)).astype("float32")
LABELS = keras.utils.to_categorical(np.arange(16) % 2, 2)


def small_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="body"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2, name="head"),
        ]
    )
    loss = Smoothed(keras.losses.CategoricalCrossentropy(from_logits=True))
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"], jit_compile=False)
    return model


class Watch(keras.callbacks.Callback):
    """Notes phase, rate and dropout at every step, and can dictate a metric."""

    def __init__(self, unfreeze: StagedUnfreezing, metric: list[float] | None = None):
        super().__init__()
        self.phases: list[str] = []
        self.rates: list[float] = []
        self.unfreeze = unfreeze
        self.metric = metric

    def on_train_batch_end(self, batch, logs=None):
        self.phases.append(self.unfreeze.phase.name)
        self.rates.append(float(self.model.optimizer.learning_rate.numpy()))

    def on_epoch_end(self, epoch, logs=None):
        if self.metric is not None:
            logs["val_loss"] = self.metric[epoch]


def fit(model, phases, metric=None, **options) -> tuple[StagedUnfreezing, Watch]:
    unfreeze = StagedUnfreezing(model, phases, steps_per_epoch=4, **options)
    watch = Watch(unfreeze, metric)
    callbacks = [watch, unfreeze]  # the watch first: it dictates the metric that a phase ends on
    model.fit(INPUTS, LABELS, batch_size=4, epochs=unfreeze.epochs, callbacks=callbacks, verbose=0)
    return unfreeze, watch


def test_a_phase_may_end_within_an_epoch():
    first = Phase("a", steps=6, learning_rate=0.6, decay="linear")
    unfreeze, watch = fit(small_model(), [first, Phase("b", train=["all"], steps=3), Phase("c", 1)])
    assert watch.phases == ["a"] * 6 + ["b"] * 3 + ["c"] * 4
    expected = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.4, 0.2, 0.6, 0.45, 0.3, 0.15]
    np.testing.assert_allclose(watch.rates, expected, rtol=1e-6)
    assert unfreeze.epochs == 4
    assert set(unfreeze.verdicts) == {"a", "b", "c"}


def test_a_phase_ends_when_its_metric_stops_improving_and_restores_the_best_weights():
    model = small_model()
    kernels = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernels.append(model.get_layer("head").kernel.numpy())

    metric = [1.0, 0.5, 0.6, 0.7, 9.0, 9.0]
    until = Until("val_loss", patience=2, max_epochs=10)
    phases = [Phase("a", until=until, learning_rate=0.1), Phase("b", epochs=1, train=["re:body"])]
    unfreeze = StagedUnfreezing(model, phases, steps_per_epoch=4)
    watch = Watch(unfreeze, metric)
    history = model.fit(
        INPUTS,
        LABELS,
        batch_size=4,
        epochs=unfreeze.epochs,
        callbacks=[watch, unfreeze, Keep()],
        verbose=0,
    )
    assert watch.phases == ["a"] * 16 + ["b"] * 4
    assert len(history.epoch) == 5
    np.testing.assert_array_equal(kernels[-1], kernels[1])  # frozen in b at epoch 1's weights
    assert not np.array_equal(kernels[3], kernels[1])


def test_a_phase_that_ends_on_a_metric_may_leave_the_best_weights():
    until = Until("loss", patience=1, min_delta=9.0, restore_best=False)
    _, watch = fit(small_model(), [Phase("a", until=until, learning_rate=0.1), Phase("b", 1)])
    assert watch.phases == ["a"] * 8 + ["b"] * 4


def test_a_metric_that_nobody_logs_is_named():
    until = Until("val_acuracy", max_epochs=2)
    with pytest.raises(TrainingError, match=r"'val_acuracy' is not logged. Logged: "):
        fit(small_model(), [Phase("a", until=until, learning_rate=0.1)])


def test_steps_need_to_know_the_epoch():
    with pytest.raises(UserError, match="steps_per_epoch is needed"):
        StagedUnfreezing(small_model(), [Phase("a", steps=3, learning_rate=0.1)])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, at an unknown length
def test_without_a_known_length_the_rate_moves_once_an_epoch():
    def forever():
        while True:
            yield INPUTS[:4], LABELS[:4]

    model = small_model()
    unfreeze = StagedUnfreezing(
        model, [Phase("a", 2, 1.0, decay="linear"), Phase("b", 1, 0.5, decay="constant")]
    )
    watch = Watch(unfreeze)
    signature = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 2)))
    unknown = tf.data.Dataset.from_generator(forever, output_signature=signature).take(3)
    model.fit(
        unknown, epochs=unfreeze.epochs, callbacks=[unfreeze, watch], verbose=0, shuffle=False
    )
    assert watch.phases == ["a"] * 6 + ["b"] * 3
    assert watch.rates == [1.0] * 3 + [0.5] * 6


def test_recalibrated_statistics_are_the_mean_of_the_batches_own():
    model = small_model()
    before = {v.path: v.numpy() for v in model.trainable_variables}
    kernel, bias = model.get_layer("body").get_weights()
    batches = tf.data.Dataset.from_tensor_slices((INPUTS, LABELS)).batch(4)
    assert recalibrate_batch_norm(model, batches) == 4
    hidden = INPUTS @ kernel + bias
    parts = hidden.reshape(4, 4, 3)
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean.numpy(), parts.mean(axis=1).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(
        norm.moving_variance.numpy(), parts.var(axis=1).mean(axis=0), rtol=1e-4
    )
    assert norm.momentum == 0.99
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), before[variable.path])


def test_a_recalibrating_phase_estimates_first_and_freezes_then():
    model = small_model()
    batches = tf.data.Dataset.from_tensor_slices((INPUTS, LABELS)).batch(4)
    phase = Phase("a", 1, 1e-3, train=["all"], batch_norm="recalibrate")
    unfreeze, _ = fit(model, [phase], recalibrate_on=batches)
    assert model.get_layer("norm").moving_mean.numpy().any()
    assert unfreeze.verdicts["a"].frozen == 4  # scale, offset and both statistics
    with pytest.raises(UserError, match="recalibrate needs recalibrate_on"):
        fit(small_model(), [phase])


def test_dropout_and_label_smoothing_follow_the_phase():
    model = small_model()
    seen = []

    class See(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append((model.layers[2].rate, model.loss.phase_amount))

    unfreeze = StagedUnfreezing(
        model,
        [
            Phase("a", 1, 1e-9, dropout=0.0, label_smoothing=0.0),
            Phase("b", dropout=0.9, label_smoothing=0.5),
        ],
    )
    history = model.fit(
        INPUTS,
        LABELS,
        epochs=2,
        callbacks=[unfreeze, See()],
        verbose=0,
        shuffle=False,
        batch_size=16,
    ).history
    assert seen == [(0.0, 0.0), (0.9, 0.5)]
    logits = model(INPUTS).numpy()
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert history["loss"][0] == pytest.approx(-(LABELS * log_p).sum(axis=-1).mean(), rel=1e-4)
    assert history["loss"][1] != pytest.approx(history["loss"][0], rel=1e-3)


def test_settings_that_the_model_has_not_are_refused_at_once():
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    plain.compile("adam", "mse")
    with pytest.raises(UserError, match="no dropout layer"):
        StagedUnfreezing(plain, [Phase("a", 1, 0.1, train=["head"], dropout=0.1)])
    with pytest.raises(UserError, match="loss=ftkeras.Smoothed"):
        StagedUnfreezing(plain, [Phase("a", 1, 0.1, train=["head"], label_smoothing=0.1)])
