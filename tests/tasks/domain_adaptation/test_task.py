"""Moving to another domain: one step on devices, and whole runs on shifted pictures."""

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
from ftkeras.data.paired import PairedFeed
from ftkeras.devices.replicas import replica_class, replicated
from ftkeras.devices.workers import share_of, spread
from ftkeras.errors import TrainingError, UserError
from ftkeras.evaluation.seeds import summarize_seeds
from ftkeras.runs import finished
from ftkeras.runs.assemble import assemble
from ftkeras.tasks.domain_adaptation.domains import GradientReversal, is_source
from ftkeras.tasks.domain_adaptation.task import PAIRED, DomainAdaptation, DomainModel
from ftkeras.training.unweighted import Unweighted

METHODS = ("none", "adabn", *PAIRED)


def rows(count: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of source and target in turns, as `PairedFeed` gives them."""
    random = np.random.default_rng(0)
    images = random.normal(0, 1, (count, 4, 4, 1)).astype(np.float32)
    labels = keras.utils.to_categorical(random.integers(0, 3, count), 3)
    source = np.arange(count) % 2 == 0
    return images, labels * source[:, None], 2.0 * source.astype(np.float32)


def model(method: str, *, jit: bool = False, weight: float = 1.0) -> DomainModel:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Dense(5, activation="tanh", name="features")(keras.layers.Flatten()(inputs))
    x = keras.layers.BatchNormalization(momentum=0.5, name="norm")(x)
    logits = keras.layers.Dense(3, name="logits")(x)
    strength = tf.Variable(0.7, trainable=False)
    if method == "dann":
        domain = keras.layers.Dense(1, name="domain")(GradientReversal(strength)(x))
        logits = keras.layers.Concatenate()([logits, domain])
    made = replica_class(DomainModel)(
        inputs,
        logits,
        classes=3,
        method=method,
        weight=weight,
        threshold=0.4,
        strength=strength,
    )
    replicated(made).compile(
        keras.optimizers.SGD(0.5),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=[Unweighted(keras.metrics.CategoricalAccuracy(name="accuracy"))],
        jit_compile=jit,
    )
    return made


@pytest.mark.parametrize("method", PAIRED)
def test_without_the_second_loss_it_is_training_on_the_source(method):
    images, labels, weights = rows()
    source = weights > 0
    made = model(method, weight=0.0)
    # Normalised by itself, as if there were no other domain.
    answers = keras.Model(made.inputs[0], made.outputs[0])(images[source], training=True)[:, :3]
    expected = keras.losses.categorical_crossentropy(labels[source], answers, from_logits=True)
    right = labels[source].argmax(1) == np.argmax(answers, 1)
    logs = made.train_on_batch(images, labels, weights, return_dict=True)
    assert logs["loss"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert logs["accuracy"] == pytest.approx(np.mean(right))
    whole = model(method)
    assert whole.train_on_batch(images, labels, weights, return_dict=True)["loss"] > logs["loss"]


@pytest.mark.parametrize("trains", [True, False])
def test_batch_norm_keeps_the_statistics_of_the_target(trains):
    images, labels, weights = rows()
    made = model("coral")
    made.get_layer("norm").trainable = trains
    flat = tf.reshape(images[weights == 0], (-1, 16))
    features = made.get_layer("features")(flat).numpy()
    made.train_on_batch(images, labels, weights)
    expected = 0.5 * features.mean(axis=0) if trains else np.zeros(5)
    np.testing.assert_allclose(made.get_layer("norm").moving_mean, expected, atol=1e-6)


def test_dann_pulls_features_the_other_way_than_its_classifier():
    images, labels, weights = rows()
    made, plain = model("dann"), model("dann", weight=0.0)
    for one in (made, plain):
        one.train_on_batch(images, labels, weights)
    before = model("dann")
    source = tf.constant(weights > 0, tf.float32)

    def step(layer: str) -> np.ndarray:
        now, without = (m.get_layer(layer).kernel.numpy() for m in (made, plain))
        return now - without

    with tf.GradientTape() as tape:
        features = before.get_layer("features")(tf.reshape(images, (len(images), -1)))
        norm = before.get_layer("norm")
        halves = [norm(features[first::2], training=True) for first in (0, 1)]
        domain = before.get_layer("domain")(tf.reshape(tf.stack(halves, axis=1), features.shape))
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(source, domain[:, 0]))
    kernels = [before.get_layer(name).kernel.value for name in ("domain", "features")]
    own, features = tape.gradient(loss, kernels)
    np.testing.assert_allclose(step("domain"), -0.5 * own, atol=1e-6)
    np.testing.assert_allclose(step("features"), 0.5 * 0.7 * features, atol=1e-6)


def trained(made: keras.Model) -> list[np.ndarray]:
    steps: list[list[float]] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: steps.append([float(v) for v in logs.values()])
    )
    data, strategy = tf.data.Dataset.from_tensor_slices(rows(24)), made.distribute_strategy
    batches, uneven = (
        spread(share_of(data.batch(size), strategy), strategy)
        for size in (8, 7)  # the latter is padded
    )
    history = made.fit(
        batches, validation_data=uneven, shuffle=False, callbacks=[note], verbose=0
    ).history
    return [np.array(steps), np.array(list(history.values())), *made.get_weights()]


@pytest.mark.slow
@pytest.mark.parametrize("method", PAIRED)
def test_two_replicas_are_one_device(two_replicas, method):
    whole = trained(model(method))
    with two_replicas.scope():
        made = model(method)
    for one, two in zip(whole, trained(made), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", PAIRED)
def test_xla_compiles_the_step(method):
    compiled, plain = model(method, jit=True), model(method)
    assert compiled.train_on_batch(*rows()) == pytest.approx(
        plain.train_on_batch(*rows()), rel=1e-4
    )
    for found, expected in zip(compiled.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def domains(tmp_path_factory) -> str:
    """Bright and dark pictures in two classes of colour; the target's are darker and inverted."""
    folder = tmp_path_factory.mktemp("domains")
    random = np.random.default_rng(0)
    for name, count, scale in (("source", 120, 1.0), ("target", 90, 0.4)):
        labels = np.arange(count) % 2
        pixels = random.normal(100, 25, (count, 16, 16, 3))
        pixels[labels == 0, :, :, 0] += 60
        pixels[labels == 1, :, :, 2] += 60
        pixels = np.clip(pixels * scale, 0, 255).astype(np.uint8)
        np.savez(folder / f"{name}.npz", images=pixels, labels=labels)
        np.savez(folder / f"{name}3.npz", images=pixels, labels=labels + 1)
        np.savez(folder / f"{name}1.npz", images=pixels, labels=0 * labels + 7)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, name="one")(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    keras.Model(inputs, x, name="tiny").save(str(folder / "tiny.keras"))
    return str(folder)


def config(folder: str, method: str, *overrides: str, target: str = "target") -> Config:
    batch_norm = "train" if method == "adabn" else "frozen"
    tree = {
        "task": "domain_adaptation",
        "data": {
            "source": "arrays",
            "path": f"{folder}/source.npz",
            "input": {"size": 16},
            "batch_size": 12,
        },
        "domain_adaptation": {
            "target": {"source": "arrays", "path": f"{folder}/{target}.npz"},
            "method": method,
        },
        "backbone": {"name": f"{folder}/tiny.keras", "weights": "none"},
        "phases": [
            {"name": "head", "train": ["head"], "epochs": 1, "learning_rate": 1e-2},
            {
                "name": "all",
                "train": ["all"],
                "epochs": 3,
                "learning_rate": 2e-2,
                "batch_norm": batch_norm,
            },
        ],
        "export": {"saved_model": False},
        "report": False,
    }
    return parse_config(tree, overrides)


def assert_statistics_of_the_target(run: Any) -> None:
    feed = assemble(run.config).feed
    pixels = np.concatenate([images for images, _ in feed.plain("target_train")])
    layers = {layer.name: layer for layer in finished.load_model(run)._flatten_layers()}
    means = np.mean(layers["one"](pixels / 255.0), axis=(0, 1, 2))
    np.testing.assert_allclose(layers["norm"].moving_mean, means, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_method_runs_and_measures_both_domains(domains, tmp_path, method):
    # So small a network fails if the domain classifier pulls as hard as the labels.
    more = ["domain_adaptation.weight=0.1"]
    if method == "dann":
        more += ["report=true", "export.saved_model=true"]
    run = ftkeras.train(config(domains, method, *more), str(tmp_path / "run"))
    target, source = (run.read_json("task.json")[name] for name in ("target", "source"))
    assert (target["split"], target["examples"]) == ("target_test", 14)
    assert source["accuracy"] == run.read_json("evaluation.json")["accuracy"] >= 0.8
    evaluation = run.read_json("evaluation.json")
    assert target["accuracy"] == evaluation["target_accuracy"]
    assert target["interval"] == evaluation["intervals"]["target_accuracy"]
    seeds = summarize_seeds({0: evaluation})["metrics"]
    assert seeds["target_accuracy"]["mean"] == target["accuracy"]
    assert -np.log(2) <= target["doubt"] <= 0
    again = ftkeras.evaluate(run, "target_test")
    assert again["accuracy"] == pytest.approx(target["accuracy"])
    assert finished.load_model(run).output_shape == (None, 2)
    logged = next(iter(run.metrics()))
    assert ("val_target_doubt" in logged) == (method in PAIRED)
    if method == "adabn":
        assert_statistics_of_the_target(run)
    if method == "dann":
        assert "The other domain" in run.read_text("report.html")


class Kill(keras.callbacks.Callback):
    """Breaks off in the middle of an epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.optimizer.iterations == 11:
            raise RuntimeError("killed")


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_weights(domains, tmp_path, monkeypatch):
    more = ["training.checkpoint.every_steps=3", 'phases[1].batch_norm="train"']
    given = config(domains, "dann", *more)
    whole = ftkeras.train(given, str(tmp_path / "whole"))
    own = DomainAdaptation.callbacks
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="killed"):
        patch.setattr(DomainAdaptation, "callbacks", lambda *args: [*own(*args), Kill()])
        ftkeras.train(given, str(tmp_path / "parts"))
    resumed = ftkeras.train(None, str(tmp_path / "parts"))
    assert "resumed" in resumed.read_text("events.jsonl")
    for one, two in zip(
        finished.load_model(whole).get_weights(),
        finished.load_model(resumed).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(two, one)


def test_a_target_without_labels(domains):
    for target in ("target1", "target3"):
        data = assemble(config(domains, "coral", target=target)).data
        assert set(data.splits["target_train"].labels) == {-1}
        assert any("counts as unlabelled" in note for note in data.notes)
    assert (
        is_source(data.splits["target_train"].make_target()(tf.constant([0, 1]))).numpy().max() == 0
    )


def test_pairs_train_on_full_batches_that_replicas_can_share(domains):
    for method in METHODS:
        assembled = assemble(config(domains, method))
        notes = [note for note in assembled.notes if "training batches are full" in note]
        if method in PAIRED:
            assert f"because {method} compares the domains of a batch" in notes[0]
            assert assembled.feed.complete and isinstance(assembled.feed, PairedFeed)
        else:  # adabn trains batch norm
            assert len(notes) == (method == "adabn")


def test_what_cannot_be_is_said_before_training(domains, tmp_path):
    with pytest.raises(UserError, match="trunk.mode: on is impossible: dann trains on two streams"):
        assemble(config(domains, "dann", "trunk.mode=on"))
    with pytest.raises(UserError, match="adabn puts the target's batch statistics"):
        assemble(config(domains, "adabn", 'phases[1].batch_norm="frozen"'))
    with pytest.raises(UserError, match="no metric 'val_target_doubt' is logged"):
        assemble(config(domains, "none", "training.monitor=val_target_doubt"))
    with pytest.raises(UserError, match="^domain_adaptation.target.path: .*nowhere.npz"):
        assemble(config(domains, "none", target="nowhere"))
    surgical = config(domains, "dann").model_dump(mode="json")
    surgical["phases"] = {"strategy": "surgical"}
    with pytest.raises(UserError, match="surgical would measure gradients"):
        assemble(parse_config(surgical))
    assert not Path(tmp_path, "run").exists()
