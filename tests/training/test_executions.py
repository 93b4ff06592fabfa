"""Several steps in one call of the train function: the same training, call by call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.phases import Phase, StagedUnfreezing
from ftkeras.run import Run
from ftkeras.training import executions
from ftkeras.training.executions import steps_together
from ftkeras.training.resume import saving
from ftkeras.training.resume.saving import SavedTraining


def small_model(steps: int = 1, accumulate: int | None = None, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dropout(0.2)]
    model = keras.Sequential([*layers, keras.layers.Dense(2, name="logits")])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    adamw = keras.optimizers.AdamW(gradient_accumulation_steps=accumulate)
    model.compile(adamw, loss, steps_per_execution=steps, jit_compile=False, **options)
    return model


def trained(
    steps: int, accumulate: int | None
) -> tuple[list[np.ndarray], list[float], tuple[int, int]]:
    """Trains two phases of 10 steps an epoch, the last of which do not fill a call."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(40, 6)).astype("float32")
    labels = keras.utils.to_categorical(np.arange(40) % 2)
    model = small_model(steps, accumulate)
    phases = [
        Phase("head", epochs=2, learning_rate=0.1, warmup=0.3),
        Phase("all", train=["all"], epochs=1, learning_rate=0.05, decay="one_cycle"),
    ]
    unfreeze = StagedUnfreezing(model, phases, steps_per_epoch=10)
    data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(4)
    history = model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[unfreeze])
    values = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    return values, history.history["learning_rate"], unfreeze.position


@pytest.mark.parametrize(("steps", "accumulate"), [(4, None), (16, None), (4, 5)])
def test_each_step_has_its_own_rate_however_many_a_call_does(steps, accumulate):
    one, rates, position = trained(1, accumulate)
    several, same_rates, same_position = trained(steps, accumulate)
    for first, second in zip(one, several, strict=True):
        np.testing.assert_array_equal(first, second)
    assert rates == same_rates
    assert position == same_position == (3, 0)


class Listener(keras.callbacks.Callback):
    """Asks for every step."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Nothing."""


def test_several_steps_only_where_nobody_looks_in_between(two_replicas):
    model = small_model()
    epochs, stops = keras.callbacks.Callback(), keras.callbacks.EarlyStopping("loss")
    assert steps_together(model, 1e6, [epochs, stops]) == 16
    assert steps_together(model, 1e12, [epochs]) == 1  # a step takes long enough
    assert steps_together(model, 1e6, [Listener()]) == 1
    silent = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: None)
    assert steps_together(model, 1e6, [silent]) == 1
    assert steps_together(model, 1e6, [epochs], every_steps=5) == 1
    assert steps_together(small_model(run_eagerly=True), 1e6, [epochs]) == 1
    scaled = small_model()
    scaled.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "mse")
    assert steps_together(scaled, 1e6, [epochs]) == 1
    assert steps_together(small_model(3), 1e12, [Listener()]) == 3  # as it was compiled
    with two_replicas.scope():
        assert steps_together(small_model(), 1e6, [epochs]) == 1


# ------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "small.npz"
    labels = np.arange(70) % 2
    images = random.integers(0, 150, (70, 32, 32, 3)) + labels[:, None, None, None] * 40
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    tree = {
        "data": {
            "source": "arrays",
            "path": str(path),
            "batch_size": 8,
            "input": {"augmentation": "none"},
        },
        "backbone": {"name": "MobileNetV2", "weights": "starter"},
        "phases": [{"name": "head", "epochs": 3, "learning_rate": 1e-2, "warmup": 0.2}],
        "trunk": {"mode": "on"},
        "export": {"saved_model": False},
        "report": False,
    }
    return parse_config(tree, ["data.input.size=32"])


def outcome(run: Run) -> tuple[list[dict[str, Any]], bytes]:
    records = [dict(record) for record in run.metrics()]
    for record in records:
        del record["seconds"], record["peak_memory_mb"]
    return records, np.concatenate([w.ravel() for w in weights(run)]).tobytes()


def weights(run: Run) -> list[np.ndarray]:
    return keras.saving.load_model(run.path("model.keras")).get_weights()


@pytest.mark.slow
def test_a_stored_head_trains_the_same_in_fewer_calls_and_after_a_kill(
    config, tmp_path: Path, monkeypatch
):
    def train(name: str, together: int, **training: Any) -> Run:
        monkeypatch.setattr(executions, "_TOGETHER", together)
        changed = config.model_copy(update=training)
        return ftkeras.train(changed, str(tmp_path / name))

    calls = []
    plain = SavedTraining.save

    one = outcome(train("one", 1))
    assert outcome(train("several", 4)) == one

    # After each call a state is saved; the process ends after the fourth, in the midst of an epoch.
    def save(self: SavedTraining, **options: Any) -> None:
        plain(self, **options)
        calls.append(self.unfreeze.position)
        if len(calls) == 4:
            raise KeyboardInterrupt

    often = config.training.model_copy(
        update={"checkpoint": config.training.checkpoint.model_copy(update={"every_minutes": 1e-9})}
    )
    monkeypatch.setattr(saving, "_SHARE", 1e9)  # at the end of each epoch, too
    monkeypatch.setattr(SavedTraining, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train("killed", 4, training=often)
    assert calls == [(0, 0), (0, 4), (1, 0), (1, 4)]
    assert outcome(train("killed", 4, training=often)) == one
