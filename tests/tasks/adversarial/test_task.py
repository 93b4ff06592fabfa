"""Training against attacks: its losses by hand, its steps on devices, and whole runs."""

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
from ftkeras.devices.replicas import replica_class, replicated
from ftkeras.devices.workers import share_of, spread
from ftkeras.errors import TrainingError, UserError
from ftkeras.runs import finished
from ftkeras.runs.assemble import assemble
from ftkeras.tasks.adversarial.attack import Attack
from ftkeras.tasks.adversarial.evaluation import projected_gradient
from ftkeras.tasks.adversarial.task import Adversarial, AdversarialModel, attack_of
from ftkeras.training.unweighted import Unweighted

FGSM = Attack("linf", 10.0, 1, 10.0, random_start=False)
FAST = Attack("linf", 10.0, 1, 12.5)
PGD = Attack("l2", 30.0, 3, 20.0)
FIRST = 3 << 32  # of the seed 3, the step 0


def examples(count: int = 9) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.uniform(20, 230, (count, 4, 4, 3)).astype(np.float32)
    return images, keras.utils.to_categorical(random.integers(0, 3, count), 3)


def model(
    attack: Attack,
    beta: float | None = None,
    *,
    norm: bool = False,
    jit: bool = False,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> AdversarialModel:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(keras.layers.Rescaling(1 / 255)(inputs))
    if norm:
        x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Flatten()(keras.layers.Activation("tanh")(x))
    outputs = keras.layers.Dense(3, dtype="float32")(x)
    make = replica_class(AdversarialModel)
    made = replicated(make(inputs, outputs, attack=attack, judge=PGD, beta=beta, seed=3))
    made.compile(
        optimizer or keras.optimizers.SGD(0.5),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=[Unweighted(keras.metrics.CategoricalAccuracy(name="accuracy"))],
        jit_compile=jit,
    )
    return made


def test_the_loss_is_of_the_attacked_images():
    images, labels = examples()
    made = model(FGSM)
    with tf.GradientTape() as tape:
        changed = tf.constant(images)
        tape.watch(changed)
        losses = keras.losses.categorical_crossentropy(labels, made(changed), from_logits=True)
    worse = np.clip(images + 10 * np.sign(tape.gradient(losses, changed)), 0, 255)
    worst = keras.losses.categorical_crossentropy(labels, made(worse), from_logits=True)
    logs = made.train_on_batch(images, labels, return_dict=True)
    assert logs["loss"] == pytest.approx(np.mean(worst), rel=1e-5)
    assert logs["loss"] > np.mean(losses) + 0.01
    assert logs["accuracy"] == logs["robust_accuracy"]


def test_trades_adds_how_far_the_answers_move():
    images, labels = examples()
    made = model(PGD, beta=4.0)
    clean = tf.nn.softmax(made(images)).numpy()
    attacked = made._attack(made._what_to_raise(tf.constant(images), labels), images, FIRST)
    moved = tf.nn.softmax(made(attacked)).numpy()
    first = -np.mean(np.sum(labels * np.log(clean), axis=1))
    second = np.mean(np.sum(clean * np.log(clean / moved), axis=1))
    assert second > 1e-4
    logs = made.train_on_batch(images, labels, return_dict=True)
    assert logs["loss"] == pytest.approx(first + 4.0 * second, rel=1e-5)
    right = labels.argmax(1)
    assert logs["accuracy"] == pytest.approx(np.mean(clean.argmax(1) == right))
    assert logs["robust_accuracy"] == pytest.approx(np.mean(moved.argmax(1) == right))


def test_validation_tells_clean_from_attacked():
    images, labels = examples(40)
    made = model(FGSM)
    logs = made.evaluate(images, labels, batch_size=16, return_dict=True, verbose=0)
    plain = keras.losses.categorical_crossentropy(labels, made(images), from_logits=True)
    assert logs["loss"] == pytest.approx(np.mean(plain), rel=1e-5)
    right = labels.argmax(1)
    assert logs["accuracy"] == pytest.approx(np.mean(np.argmax(made(images), 1) == right))
    assert logs["robust_accuracy"] < logs["accuracy"]


def test_the_attack_leaves_batch_norm_alone():
    images, labels = examples(8)
    made = model(PGD, norm=True)
    conv, norm = made.get_layer("conv"), made.get_layer("norm")
    attacked = made._attack(made._what_to_raise(images, labels), tf.constant(images), FIRST)
    mean = np.mean(conv(attacked / 255), axis=(0, 1, 2))
    made.train_on_batch(images, labels)
    # One update, by the images that were trained on: not one a step of the attack.
    np.testing.assert_allclose(norm.moving_mean, (1 - norm.momentum) * mean, rtol=1e-4, atol=1e-7)


def trained(made: keras.Model) -> list[np.ndarray]:
    """Returns the logs of each step and of the validation, and the weights."""
    steps: list[list[float]] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: steps.append([float(v) for v in logs.values()])
    )
    data = tf.data.Dataset.from_tensor_slices((*examples(), np.linspace(0.5, 2, 9)))
    # Batch norm trains, so batches are full; in validation it does not.
    batches, uneven = (
        spread(share_of(data.batch(4, drop_remainder=full), strategy), strategy)
        for strategy in [made.distribute_strategy]
        for full in (True, False)
    )
    history = made.fit(
        batches, validation_data=uneven, shuffle=False, callbacks=[note], verbose=0
    ).history
    return [np.array(steps), np.array(list(history.values())), *made.get_weights()]


@pytest.mark.slow
@pytest.mark.parametrize("beta", [None, 4.0])
def test_two_replicas_are_one_device(two_replicas, beta):
    whole = trained(model(FAST, beta, norm=True))
    with two_replicas.scope():
        made = model(FAST, beta, norm=True)
    for one, two in zip(whole, trained(made), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "beta"), [(PGD, None), (FAST, 4.0)])
def test_xla_compiles_the_step(attack, beta):
    images, labels = examples(4)
    logs = model(attack, beta, jit=True).train_on_batch(images, labels, return_dict=True)
    plain = model(attack, beta).train_on_batch(images, labels, return_dict=True)
    assert logs["loss"] == pytest.approx(plain["loss"], rel=0.02)  # XLA draws other numbers


@pytest.mark.slow
def test_xla_changes_nothing():
    images, labels = examples(4)
    attack = Attack("l2", 30.0, 3, 20.0, random_start=False)
    for found, expected in zip(
        *(
            [m.train_on_batch(images, labels), *m.get_weights()]
            for m in (model(attack, jit=True), model(attack))
        ),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [None, 4.0])
def test_half_precision_with_a_scaled_loss(beta):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        made = model(
            PGD,
            beta,
            optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), 64.0),
        )
    finally:
        keras.config.set_dtype_policy("float32")
    before = made.get_weights()
    logs = made.train_on_batch(*examples(), return_dict=True)
    exact = model(PGD, beta).train_on_batch(*examples(), return_dict=True)
    assert logs["loss"] == pytest.approx(exact["loss"], rel=0.01)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, made.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("method", "attack"),
    [
        ("fgsm", Attack("linf", 8.0, 1, 8.0, False)),
        ("fast", Attack("linf", 8.0, 1, 10.0)),
        ("pgd", Attack("linf", 8.0, 10, 2.0)),
        ("trades", Attack("linf", 8.0, 10, 2.0)),
    ],
)
def test_the_attacks_that_methods_stand_for(method, attack):
    given = {"method": method, "budget": 8.0, "steps": 10}
    assert attack_of(config("x", **given).adversarial) == attack  # type: ignore[attr-defined]


# --------------------------------------------------------------------------- whole runs


def config(path: str, *overrides: str, **adversarial: Any) -> Config:
    tree = {
        "task": "adversarial",
        "data": {"source": "arrays", "path": path, "input": {"size": 16}, "batch_size": 12},
        "backbone": {"name": f"{path}.keras", "weights": "none"},
        "adversarial": {"method": "fast", "budget": 16.0, "judge": {"steps": 5}, **adversarial},
        "phases": [
            {"name": "head", "train": ["head"], "epochs": 1, "learning_rate": 1e-2},
            {"name": "all", "train": ["all"], "epochs": 3, "learning_rate": 2e-2},
        ],
    }
    return parse_config(tree, overrides)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> str:
    """Two classes that a strong, brittle pattern and a weak, robust one tell apart."""
    path = str(tmp_path_factory.mktemp("data") / "images.npz")
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    pixels = random.normal(128, 30, (200, 16, 16, 3)) + 40 * (labels[:, None, None, None] - 0.5)
    np.savez(path, images=np.clip(pixels, 0, 255).astype(np.uint8), labels=labels)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="one")(
        keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    )
    x = keras.layers.Conv2D(8, 3, activation="relu", name="two")(x)
    keras.Model(inputs, x, name="tiny").save(f"{path}.keras")
    return path


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> Any:
    return ftkeras.train(config(images), str(tmp_path_factory.mktemp("runs") / "run"))


@pytest.mark.slow
def test_a_run_measures_itself_under_attack(run):
    [attack] = run.read_json("task.json")["test"]["attacks"]
    clean = run.read_json("task.json")["test"]["clean"]
    assert (attack["norm"], attack["budget"], attack["steps"]) == ("linf", 16.0, 5)
    assert clean["accuracy"] == pytest.approx(run.read_json("evaluation.json")["accuracy"])
    assert 0.5 <= attack["accuracy"] <= clean["accuracy"]
    low, high = attack["interval"]
    assert low <= attack["accuracy"] <= high
    assert {"robust_accuracy", "val_robust_accuracy"} <= set(next(iter(run.metrics())))
    assert "PGD-5, linf 16" in run.read_text("report.html")
    assert type(finished.load_model(run)) is not AdversarialModel


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the toolbox
def test_the_adversarial_robustness_toolbox_agrees(run):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    exported = tf.saved_model.load(run.path("export", "1"))
    served = exported.signatures["images"]

    def scores(pixels: tf.Tensor, training: bool = False) -> tf.Tensor:
        answer = served(images=pixels)
        order = tf.argsort(answer["class_indices"], axis=1)
        return tf.math.log(tf.gather(answer["scores"], order, batch_dims=1))

    data = assemble(run.config).feed.plain("test")
    pixels, labels = (np.concatenate(parts) for parts in zip(*data, strict=True))
    judged = TensorFlowV2Classifier(
        scores,
        nb_classes=2,
        input_shape=(16, 16, 3),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 255.0),
    )
    attack = ProjectedGradientDescent(
        judged, np.inf, eps=16.0, eps_step=8.0, max_iter=5, num_random_init=1, verbose=False
    )
    answers = judged.predict(attack.generate(pixels, labels)).argmax(axis=1)
    [ours] = run.read_json("task.json")["test"]["attacks"]
    assert np.mean(answers == labels.argmax(axis=1)) == pytest.approx(
        ours["accuracy"], abs=1.5 / len(labels)
    )


class Kill(keras.callbacks.Callback):
    """Breaks off in the middle of an epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.optimizer.iterations == 20:
            raise RuntimeError("killed")


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_weights(run, images, tmp_path, monkeypatch):
    steps = "training.checkpoint.every_steps=3"
    quiet = config(images, "export.saved_model=false", "report=false", steps)
    folder = str(tmp_path / "parts")
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="killed"):
        patch.setattr(Adversarial, "callbacks", lambda *_: [Kill()])
        ftkeras.train(quiet, folder)
    resumed = ftkeras.train(None, folder)
    for one, two in zip(
        finished.load_model(run).get_weights(),
        finished.load_model(resumed).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(two, one)
    assert "resumed" in resumed.read_text("events.jsonl")


def test_attacks_see_statistics_of_the_present(images, tmp_path):
    """With a momentum of .999 they would attack the network of hundreds of steps ago."""
    path = str(tmp_path / "images.npz")
    Path(path).write_bytes(Path(images).read_bytes())
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2)(keras.layers.Rescaling(1 / 127.5, -1.0)(inputs))
    x = keras.layers.BatchNormalization(momentum=0.999, name="norm")(x)
    keras.Model(inputs, keras.layers.ReLU()(x)).save(f"{path}.keras")
    made = assemble(config(path)).model
    [norm] = [x for x in made._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    norm.trainable = True
    made.get_layer("head_dropout").rate = 0.0
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)
    for _ in range(50):
        trained = made([pixels], training=True)
    np.testing.assert_allclose(made([pixels], training=False), trained, rtol=0.02, atol=0.02)


def test_what_cannot_be_is_said_before_training(images, tmp_path):
    with pytest.raises(
        UserError, match="trunk.mode: on is impossible: adversarial training changes"
    ):
        assemble(config(images, "trunk.mode=on"))
    several = str(tmp_path / "several.npz")
    with np.load(images) as file:
        np.savez(several, images=file["images"], labels=np.ones((200, 2), np.int64))
    Path(f"{several}.keras").write_bytes(Path(f"{images}.keras").read_bytes())
    with pytest.raises(UserError, match="one of several classes, not 'label' \\(labels\\)"):
        assemble(config(several))
    with pytest.raises(UserError, match="any change at all"):
        config(images, budget=255.0)
    with pytest.raises(UserError, match="no metric 'val_robust' is logged"):
        assemble(config(images, "training.monitor=val_robust"))
    assert projected_gradient("linf", 4.0, 20).step == 0.5
