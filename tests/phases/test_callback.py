"""StagedUnfreezing in a plain `model.fit`, and the Keras behaviour that it relies on."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.backbones import Block
from ftkeras.errors import TrainingError, UserError
from ftkeras.phases import Phase, StagedUnfreezing

IMAGES = np.random.default_rng(0).uniform(0, 1, (16, 8, 8, 3)).astype("float32")
LABELS = keras.utils.to_categorical(np.arange(16) % 2, 2)


def small_model() -> tuple[keras.Model, list[Block]]:
    """Returns a compiled two-block CNN with batch norm, nested as backbones are, and its blocks."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.Conv2D(4, 3, name="conv2")(x)
    x = keras.layers.BatchNormalization(name="bn2")(x)
    base = keras.Model(inputs, x, name="base")
    outer = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(base(outer))
    model = keras.Model(outer, keras.layers.Dense(2, name="logits")(x))
    blocks = [
        Block("one", (base.get_layer("conv1"), base.get_layer("bn1"))),
        Block("two", (base.get_layer("conv2"), base.get_layer("bn2"))),
    ]
    compile_model(model)
    return model, blocks


def compile_model(model: keras.Model, **options: object) -> None:
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss=loss, jit_compile=False, **options)


def snapshot(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy().copy() for weight in model.weights}


def moved(model: keras.Model, before: dict[str, np.ndarray]) -> set[str]:
    return {w.path for w in model.weights if not np.array_equal(w.numpy(), before[w.path])}


class Snapshots(keras.callbacks.Callback):
    """Keeps the weights at the end of every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[dict[str, np.ndarray]] = []

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.taken.append(snapshot(self.model))


HEAD = Phase("head", epochs=1, learning_rate=1e-2)
TOP = Phase("top", train=["head", "blocks[-1:]"], epochs=1, learning_rate=1e-3, decay="constant")
ALL = Phase("all", train=["all"], epochs=1, learning_rate=1e-3, batch_norm="train")


def fit(model: keras.Model, unfreeze: StagedUnfreezing, *more: keras.callbacks.Callback, **options):
    callbacks = [unfreeze, *more]
    return model.fit(
        IMAGES,
        LABELS,
        batch_size=4,
        epochs=unfreeze.epochs,
        callbacks=callbacks,
        verbose=0,
        **options,
    )


def test_each_phase_moves_exactly_what_it_names():
    model, blocks = small_model()
    start, snapshots = snapshot(model), Snapshots()
    unfreeze = StagedUnfreezing(model, [HEAD, TOP, ALL], blocks=blocks)
    fit(model, unfreeze, snapshots)
    first, second, third = snapshots.taken

    def changed(before, after):
        return {path for path in before if not np.array_equal(before[path], after[path])}

    assert changed(start, first) == {"logits/kernel", "logits/bias"}
    assert changed(first, second) == {
        "logits/kernel", "logits/bias", "conv2/kernel", "conv2/bias"
    }  # fmt: skip
    assert {"conv1/kernel", "bn1/gamma", "bn1/moving_mean", "bn2/moving_variance"} <= changed(
        second, third
    )


def test_trainable_set_in_a_callback_does_nothing_until_the_train_function_is_rebuilt():
    """What Keras does by itself, and the reason for `make_train_function(force=True)`."""

    class Naive(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.get_layer("base").get_layer("conv2").trainable = True

    model, _ = small_model()
    model.get_layer("base").trainable = False
    model.optimizer.build(model.variables)
    before = snapshot(model)
    model.fit(IMAGES, LABELS, batch_size=4, epochs=2, callbacks=[Naive()], verbose=0)
    assert moved(model, before) == {"logits/kernel", "logits/bias"}


def test_setting_a_flag_to_what_it_is_does_not_reach_the_layers_inside():
    """What Keras does by itself on TensorFlow, and the reason for setting every layer's flag."""
    model, _ = small_model()
    model.get_layer("base").trainable = False
    model.trainable = True
    assert not model.get_layer("base").trainable


def test_an_optimizer_built_while_frozen_serves_the_phases_nevertheless():
    """Keras by itself refuses what is unfrozen later; phases copy the optimizer's settings."""
    model, blocks = small_model()
    model.get_layer("base").trainable = False
    model.fit(IMAGES, LABELS, batch_size=4, epochs=1, verbose=0)
    model.get_layer("base").trainable = True
    model.make_train_function(force=True)
    with pytest.raises(ValueError, match="Unknown variable"):
        model.fit(IMAGES, LABELS, batch_size=4, epochs=1, verbose=0)
    before = snapshot(model)
    fit(model, StagedUnfreezing(model, [TOP], blocks=blocks))
    assert moved(model, before) == {
        "logits/kernel", "logits/bias", "conv2/kernel", "conv2/bias"
    }  # fmt: skip


def test_optimizer_keeps_momenta_and_iterations_across_a_transition():
    model, blocks = small_model()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            named = {v.name: v.numpy() for v in self.model.optimizer.variables}
            momenta = [m for name, m in named.items() if name.endswith("logits_kernel_momentum")]
            seen.append((int(self.model.optimizer.iterations.numpy()), *momenta))

    unfreeze = StagedUnfreezing(model, [HEAD, TOP], blocks=blocks)
    fit(model, unfreeze, Watch())
    assert [iterations for iterations, _ in seen] == [0, 4]
    assert not seen[0][1].any()
    assert seen[1][1].any()


def test_training_false_does_not_keep_batch_norm_still_and_the_callback_does():
    model, blocks = small_model()
    inputs = keras.Input((8, 8, 3))
    x = model.get_layer("base")(inputs, training=False)
    outer = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    compile_model(outer)
    before = snapshot(outer)
    outer.fit(IMAGES, LABELS, batch_size=4, epochs=1, verbose=0)
    assert "bn1/moving_mean" in moved(outer, before)

    model, blocks = small_model()
    before = snapshot(model)
    everything = Phase("all", train=["all"], epochs=1, learning_rate=1e-2)
    fit(model, StagedUnfreezing(model, [everything], blocks=blocks))
    assert not [path for path in moved(model, before) if path.startswith("bn")]


def test_scale_and_offset_train_with_fixed_statistics_when_named():
    model, blocks = small_model()
    before = snapshot(model)
    fit(model, StagedUnfreezing(model, [Phase("n", 1, 1e-2, train=["norm"])], blocks=blocks))
    assert moved(model, before) == {"bn1/gamma", "bn1/beta", "bn2/gamma", "bn2/beta"}


def test_learning_rate_follows_the_schedule_of_each_phase():
    model, blocks = small_model()
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate.numpy()))

    linear = Phase("head", epochs=2, learning_rate=0.8, warmup=0.25, decay="linear")
    history = fit(model, StagedUnfreezing(model, [linear, TOP], blocks=blocks), Watch())
    expected = [0.4, 0.8, 0.8, 0.8 * 5 / 6, 0.8 * 4 / 6, 0.8 * 3 / 6, 0.8 * 2 / 6, 0.8 * 1 / 6]
    np.testing.assert_allclose(rates, expected + [1e-3] * 4, rtol=1e-6)
    np.testing.assert_allclose(history.history["learning_rate"], rates[3::4], rtol=1e-6)


def test_a_later_first_epoch_needs_the_optimizers_state():
    model, blocks = small_model()
    before = snapshot(model)
    unfreeze = StagedUnfreezing(model, [HEAD, TOP], blocks=blocks)
    with pytest.raises(UserError, match=r"starts at epoch 2, .*prepare\(model\)"):
        fit(model, unfreeze, initial_epoch=1)
    assert not moved(model, before)


def test_audit_stops_the_run_when_something_writes_to_a_frozen_weight():
    class Vandal(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            bias = self.model.get_layer("base").get_layer("conv1").bias
            bias.assign(np.nextafter(bias.numpy(), 1))  # the last bit only

    model, blocks = small_model()
    with pytest.raises(TrainingError, match=r"1 frozen variable changed: base/conv1/bias"):
        fit(model, StagedUnfreezing(model, [HEAD], blocks=blocks), Vandal())


def test_audit_counts_what_stayed_and_what_moved():
    model, blocks = small_model()
    unfreeze = StagedUnfreezing(model, [HEAD, TOP], blocks=blocks)
    fit(model, unfreeze)
    assert (unfreeze.verdicts["head"].frozen, unfreeze.verdicts["head"].trained) == (12, 2)
    assert (unfreeze.verdicts["top"].frozen, unfreeze.verdicts["top"].trained) == (10, 4)
    assert not unfreeze.verdicts["top"].drifted + unfreeze.verdicts["top"].unmoved


def test_uncompiled_model_is_refused():
    model, _ = small_model()
    with pytest.raises(UserError, match="compile the model first"):
        StagedUnfreezing(keras.Model(model.input, model.output), [HEAD])


def test_the_optimizer_for_phases_is_there_once_the_model_is_prepared():
    model, blocks = small_model()
    unfreeze = StagedUnfreezing(model, [HEAD], blocks=blocks)
    with pytest.raises(UserError, match=r"call unfreeze\.prepare\(model\)"):
        _ = unfreeze.optimizer
    unfreeze.prepare(model)
    assert unfreeze.optimizer is model.optimizer
