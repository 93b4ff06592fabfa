"""When batches have to be full, and whole runs on replicas that share padded ones."""

from __future__ import annotations

import zipfile
from typing import Any

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.errors import UserError
from ftkeras.phases import Phase, weights_of
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.runs.padding import why_full


class Adds(keras.layers.Layer):
    """Adds a loss of its own, in training alone."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            self.add_loss(keras.ops.mean(inputs))
        return inputs


class AddsNone(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs


LAYERS: dict[str, Any] = {
    "regulariser": lambda: keras.layers.Dense(3, activity_regularizer="l2"),
    "its layer": lambda: keras.layers.ActivityRegularization(l1=0.1),
    "nested": lambda: keras.Sequential([keras.layers.ReLU(activity_regularizer="l2")]),
    "adds": Adds,
    "nothing": AddsNone,
    "weights": lambda: keras.layers.Dense(3, kernel_regularizer="l2"),
    "norm": lambda: keras.layers.BatchNormalization(name="norm"),
    "layer norm": keras.layers.LayerNormalization,
}


@pytest.mark.parametrize(
    ("layer", "batch_norm", "why"),
    [
        ("regulariser", "frozen", "has an activity regulariser"),
        ("its layer", "frozen", "has an activity regulariser"),
        ("nested", "frozen", "has an activity regulariser"),
        ("adds", "frozen", "a layer adds a loss of its own"),
        ("nothing", "train", None),
        ("weights", "train", None),
        ("layer norm", "train", None),
        ("norm", "train", "batch norm trains in phase second"),
        ("norm", "frozen", None),
        ("norm", "recalibrate", None),
    ],
)
def test_what_cannot_be_padded(layer, batch_norm, why):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="first", kernel_regularizer="l2")(inputs)
    outputs = keras.layers.Dense(2, name="head")(LAYERS[layer]()(x))
    model = keras.Model(inputs, outputs)
    phases = [
        Phase("first", 1, 0.1, train=["head"], batch_norm=batch_norm),
        Phase("second", 1, 0.1, train=["all"]),
    ]
    found = why_full(model, weights_of(model), phases)
    assert (found is None) == (why is None) and (why or "") in (found or "")
    # Only the penalties of weights are left.
    assert len(model.losses) == sum(w.regularizer is not None for w in model.trainable_weights)


@pytest.fixture
def tree(tmp_path, tiny_backbone) -> dict:
    random = np.random.default_rng(0)
    labels = np.arange(49) % 7 % 3  # of the classes, one has three sevenths, the others two
    images = random.normal(110, 30, (49, 32, 32, 3)) + 50 * np.eye(3)[labels][:, None, None, :]
    np.savez(tmp_path / "d.npz", images=images.clip(0, 255).astype(np.uint8), labels=labels)
    return {
        "data": {
            "source": "arrays",
            "path": str(tmp_path / "d.npz"),
            "input": {"size": 32, "augmentation": "none"},
            "batch_size": 7,
            "balance": "class_weights",
        },
        "backbone": {"name": tiny_backbone},
        "head": {"dropout": 0.0},
        "phases": [
            {"name": "head", "epochs": 1, "learning_rate": 1e-3},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2, "learning_rate": 1e-4},
        ],
        "export": {"saved_model": False},
        "report": False,
    }


def records(tree: dict, out: str, *changes: str) -> list[dict[str, Any]]:
    ftkeras.train(parse_config(tree, list(changes)), out)
    return list(Run.open(out).metrics())


@pytest.mark.slow
def test_two_replicas_do_a_whole_run_as_one_would(two_replicas, tree, tmp_path):
    """Batches of 7 never divide, and each epoch ends on a ragged one."""
    one = records(tree, str(tmp_path / "one"), "trunk.mode=off")
    for mode in ("off", "on"):
        out = tmp_path / mode
        two = records(tree, str(out), f"trunk.mode={mode}", "training.strategy=mirrored")
        assert len(one) == len(two) == 3
        for alone, shared in zip(one, two, strict=True):
            for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
                assert shared[name] == pytest.approx(alone[name], rel=1e-5), (mode, name)
    with zipfile.ZipFile(out / "model.keras") as kept:
        assert b"ftkeras" not in kept.read("config.json")
    assert keras.models.load_model(out / "model.keras").output_shape == (None, 3)


@pytest.mark.slow
def test_batch_norm_trains_on_full_batches_alone(two_replicas, tree):
    tree["phases"][1]["batch_norm"] = "train"
    tree["data"]["batch_size"] = 8
    assembled = assemble(parse_config(tree, []))
    train = len(assembled.data.splits["train"])
    assert train % 8 and assembled.feed.steps_per_epoch == train // 8
    sentence = (
        f"training batches are full, because batch norm trains in phase top; each epoch leaves out "
        f"{train % 8} images, others each time"
    )
    assert sentence in assembled.notes and sentence in assembled.describe()
    assert int(assembled.feed.train().cardinality()) == train // 8
    with pytest.raises(UserError, match=r"^data.batch_size: 7 .* among 2 .* a multiple of 2\.$"):
        assemble(parse_config(tree, ["data.batch_size=7", "training.strategy=mirrored"]))
    with pytest.raises(UserError, match="data.batch_size: 64 is more than the images of train"):
        assemble(parse_config(tree, ["data.batch_size=64"]))


def test_accuracy_does_not_know_of_class_weights(tree):
    assembled = assemble(parse_config(tree, []))
    logs = assembled.model.evaluate(assembled.feed.train(), verbose=0, return_dict=True)
    plain = assembled.feed.plain("train")
    right = [
        np.argmax(assembled.model(images), 1) == np.argmax(labels, 1) for images, labels in plain
    ]
    assert logs["accuracy"] == pytest.approx(np.concatenate(right).mean())
