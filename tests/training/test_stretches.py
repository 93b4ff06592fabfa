"""Runs from a stored trunk: the same record as runs without one, and when there is none."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.tasks import classification
from ftkeras.training.stretches import TrunkOptions, stretches

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> str:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "small.npz"
    labels = np.arange(60) % 3
    images = random.integers(0, 200, (60, 32, 32, 3), np.uint8) + (labels * 20)[:, None, None, None]
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return str(path)


def config(arrays: str, *overrides: str) -> Config:
    tree = {
        "data": {"source": "arrays", "path": arrays, "batch_size": 8, "augmentation": "none"},
        "backbone": {"name": "MobileNetV2", "weights": "starter"},
        "head": {"dropout": 0.0},
        "phases": [
            {"name": "head", "epochs": 2, "learning_rate": 1e-3},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2, "learning_rate": 1e-4},
        ],
        "regularization": {"l2_sp": 1e-3},
        "training": {"average": {"decay": 0.9}},
        "export": {"saved_model": False},
    }
    return parse_config(tree, ["data.image_size=64", *overrides])


def test_the_record_is_the_same_with_and_without_a_store(arrays, tmp_path, capsys):
    plain = list(classification.train(config(arrays), str(tmp_path / "plain")).metrics())
    capsys.readouterr()
    run = classification.train(config(arrays, "trunk.mode=auto"), str(tmp_path / "stored"))
    said = capsys.readouterr().out
    assert said.count("trunk     train:") == 2  # once a phase
    assert "not stored" not in said
    stored = list(run.metrics())
    assert [record["phase"] for record in stored] == ["head", "head", "top", "top"]
    for one, two in zip(plain, stored, strict=True):
        for name in ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate"):
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-4), name
    audit = run.read_json("plan.json")["audit"]
    assert not audit["head"]["drifted"]
    assert audit["top"]["trained"] > audit["head"]["trained"]


@pytest.mark.parametrize(
    ("override", "callbacks", "reason"),
    [
        ("data.augmentation=light", [], "augmentation makes each epoch's images new"),
        ("data.mix.mixup=0.2", [], "mixing makes each epoch's images new"),
        ("phases[1]={name: top, steps: 3}", [], "a phase ends on steps or on a metric"),
        ("seed=0", [keras.callbacks.EarlyStopping()], "early stopping counts over all phases"),
    ],
)
def test_where_it_cannot_be_stored_a_line_says_why(arrays, capsys, override, callbacks, reason):
    made = classification.assemble(config(arrays, override))
    one, *more = stretches(made.model, made.feed, made.unfreeze, TrunkOptions(), callbacks)
    assert f"trunk     not stored: {reason}" in capsys.readouterr().out
    assert (one.first_epoch, one.end_epoch, more) == (0, made.unfreeze.epochs, [])
