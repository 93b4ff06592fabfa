"""Texts whose vectors are changed: the change in closed form, steps by hand, and a whole run."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.devices.replicas import replica_class, replicated
from ftkeras.devices.workers import share_of, spread
from ftkeras.errors import TrainingError, UserError
from ftkeras.model.pooling import SequencePooling
from ftkeras.runs import finished
from ftkeras.runs.assemble import assemble
from ftkeras.tasks.adversarial import vectors
from ftkeras.tasks.adversarial.task import Adversarial
from ftkeras.tasks.adversarial.vectors import VectorsModel, divide
from ftkeras.training.unweighted import Unweighted

IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [2, 2, 0, 0, 0], [8, 1, 5, 3, 0]], np.int32)
LABELS = keras.utils.to_categorical([0, 1, 2, 1], 3)
EPSILON = 2.0


def model(*, linear: bool = False, weight: float = 0.5, virtual: bool = False) -> VectorsModel:
    """Returns logits of the mean vector; unless it is linear, also of what a GRU returns."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(9, 4, mask_zero=True, name="embedding")(inputs)
    if not linear:
        hidden = keras.layers.GRU(5, return_sequences=True, name="gru")(x)
        x = keras.layers.Concatenate(name="features")([x, hidden])
    logits = keras.layers.Dense(3, name="logits")(SequencePooling("mean", name="head_pool")(x))
    made = replicated(
        replica_class(VectorsModel)(
            inputs, logits, epsilon=EPSILON, weight=weight, virtual=virtual, seed=3
        )
    )
    made.get_layer("embedding").embeddings.assign(
        np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    accuracy = Unweighted(keras.metrics.CategoricalAccuracy(name="accuracy"))
    made.compile(keras.optimizers.SGD(0.5), loss, weighted_metrics=[accuracy])
    return made


def change(made: VectorsModel) -> tuple[np.ndarray, np.ndarray]:
    """Returns the vectors of the texts, and how they are changed."""
    ids, vectors = made._divided.read(IDS)
    return vectors.numpy(), made._change(vectors, ids, IDS, tf.constant(LABELS)).numpy()


def test_of_a_linear_model_the_change_is_the_closed_form():
    made = model(linear=True)
    _, found = change(made)
    kernel = made.get_layer("logits").kernel.numpy()
    wrong = tf.nn.softmax(made(IDS)).numpy() - LABELS  # (b, classes): the gradient of the logits
    real = (IDS != 0)[..., None]
    # All words of a text count alike in its mean, so each moves by the same.
    direction = (wrong @ kernel.T)[:, None] / real.sum(axis=1, keepdims=True) * real
    length = np.sqrt(np.square(direction).sum(axis=(1, 2), keepdims=True))
    table = made.get_layer("embedding").embeddings.numpy()
    spread = np.sqrt(table.var(axis=0).mean())
    np.testing.assert_allclose(found, EPSILON * spread * direction / length, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        np.sqrt(np.square(found).sum(axis=(1, 2))), EPSILON * spread, rtol=1e-5
    )


@pytest.mark.parametrize("virtual", [False, True])
def test_padding_stays_and_decides_nothing(virtual):
    made = model(virtual=virtual)
    _, found = change(made)
    assert (found[IDS == 0] == 0).all()
    assert (np.abs(found[IDS != 0]).max(axis=1) > 0).all()
    if not virtual:  # the noise that virtual starts from has the shape of the batch
        ids, vectors = made._divided.read(np.pad(IDS, ((0, 0), (0, 3))))
        more = made._change(vectors, ids, np.pad(IDS, ((0, 0), (0, 3))), tf.constant(LABELS))
        np.testing.assert_allclose(more[:, :5], found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("virtual", [False, True])
def test_the_loss_adds_that_of_changed_texts(virtual):
    made = model(virtual=virtual)
    vectors, moved = change(made)
    clean = tf.nn.softmax(made(IDS)).numpy()
    answers = made._divided.answer(vectors + moved, IDS, IDS, False)
    changed = tf.nn.softmax(answers).numpy()
    first = -np.mean(np.sum(LABELS * np.log(clean), axis=1))
    second = -np.mean(np.sum(LABELS * np.log(changed), axis=1))
    random = np.random.default_rng(1).normal(size=vectors.shape) * (IDS != 0)[..., None]
    random *= np.sqrt(np.square(moved).sum((1, 2)) / np.square(random).sum((1, 2)))[:, None, None]
    answers = made._divided.answer(np.float32(vectors + random), IDS, IDS, False)
    other = tf.nn.softmax(answers).numpy()
    if virtual:
        second, rival = (np.mean(np.sum(clean * np.log(clean / x), 1)) for x in (changed, other))
    else:
        rival = -np.mean(np.sum(LABELS * np.log(other), axis=1))
    assert second > rival  # a random change of the same length does less
    logs = made.train_on_batch(IDS, LABELS, return_dict=True)
    assert logs["loss"] == pytest.approx(first + 0.5 * second, rel=1e-4)
    assert logs["accuracy"] == pytest.approx(np.mean(clean.argmax(1) == LABELS.argmax(1)))
    plain = model(virtual=virtual).evaluate(IDS, LABELS, return_dict=True, verbose=0)
    assert plain["loss"] == pytest.approx(first, rel=1e-5)


def trained(made: keras.Model) -> list[np.ndarray]:
    """Returns the logs and the weights after two uneven batches."""
    rows = (np.tile(IDS, (2, 1))[:7], np.tile(LABELS, (2, 1))[:7], np.linspace(0.5, 2, 7))
    data = tf.data.Dataset.from_tensor_slices(rows).batch(4)
    strategy = made.distribute_strategy
    batches = spread(share_of(data, strategy), strategy)
    history = made.fit(batches, shuffle=False, verbose=0).history
    return [np.array(list(history.values())), *made.get_weights()]


@pytest.mark.slow
@pytest.mark.parametrize("virtual", [False, True])
def test_two_replicas_are_one_device(two_replicas, virtual, monkeypatch):
    # Virtual divides the difference of two answers by this distance, and their rounding with it. At
    # 0.1 that reaches 1.2e-6 on some processors, which tells nothing about replicas.
    monkeypatch.setattr(vectors, "_NEAR", 1.0)
    whole = trained(model(virtual=virtual))
    with two_replicas.scope():
        made = model(virtual=virtual)
    for one, two in zip(whole, trained(made), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------- whole runs


def config(text_tree: dict[str, Any], *overrides: str, **section: Any) -> Any:
    return parse_config({**text_tree, "task": "adversarial", "adversarial": section}, overrides)


class Kill(keras.callbacks.Callback):
    """Breaks off in the middle of an epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.optimizer.iterations == 8:
            raise RuntimeError("killed")


@pytest.mark.slow
def test_a_run_on_texts_learns_resumes_and_reports(text_tree, tmp_path, monkeypatch):
    reported = config(text_tree, "report=true", method="virtual")
    whole = ftkeras.train(reported, str(tmp_path / "whole"))
    assert whole.read_json("evaluation.json")["accuracy"] > 0.7  # a word tells the class
    assert "val_accuracy" in next(iter(whole.metrics()))
    assert "Under attack" not in whole.read_text("report.html")
    assert type(finished.load_model(whole)) is not VectorsModel
    folder = str(tmp_path / "parts")
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="killed"):
        patch.setattr(Adversarial, "callbacks", lambda *_: [Kill()])
        ftkeras.train(config(text_tree, method="virtual"), folder)
    resumed = ftkeras.train(None, folder)
    for one, two in zip(
        finished.load_model(whole).get_weights(),
        finished.load_model(resumed).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(two, one)


@pytest.mark.slow
def test_vectors_of_a_transformer_change(text_tree, hugging_face_folder):
    pytest.importorskip("keras_hub")
    data = {**text_tree["data"], "input": {"kind": "text", "length": 24}}
    tree = {**text_tree, "data": data, "backbone": {"name": str(hugging_face_folder)}}
    made = assemble(config(tree, method="vectors"))
    model = made.model
    for inputs, labels, *_ in made.feed.plain("train").take(1):
        ids, vectors = model._divided.read(inputs)
        np.testing.assert_allclose(
            model._divided.answer(vectors, ids, inputs, False),
            model(inputs, training=False),
            rtol=1e-4,
            atol=1e-5,
        )
        change = model._change(vectors, ids, inputs, labels).numpy()
    real = inputs["padding_mask"].numpy().astype(bool)
    assert not real.all() and (change[~real] == 0).all() and np.abs(change[real]).max() > 0


def test_what_cannot_be_is_said_before_training(text_tree):
    with pytest.raises(UserError, match="method: pgd is not for texts. Take vectors or virtual"):
        assemble(config(text_tree, method="pgd"))
    with pytest.raises(UserError, match="adversarial.budget: this is not for texts; epsilon and"):
        assemble(config(text_tree, budget=8.0))
    with pytest.raises(
        UserError, match="trunk.mode: on is impossible: adversarial training changes"
    ):
        assemble(config(text_tree, "trunk.mode=on"))
    with pytest.raises(UserError, match="no metric 'val_robust_accuracy' is logged"):
        assemble(config(text_tree, "training.monitor=val_robust_accuracy"))
    inputs = keras.Input((None, 4))
    with pytest.raises(UserError, match="no layer keras.layers.Embedding of its own"):
        divide(keras.Model(inputs, keras.layers.Dense(3)(inputs)))
