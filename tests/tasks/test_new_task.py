"""The worked example of CONTRIBUTING.md: a task, from its config to a measured run.

The task `ordinal` is for classes that have an order, such as small, medium and large: its loss adds
how far the expected rank is from the right one. In the package the first part is
`ftkeras/tasks/ordinal/config.py`, the second `ftkeras/tasks/ordinal/task.py`.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Literal

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.config.fields import NonNegativeFloat, Section
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.config.schemas import SCHEMAS
from ftkeras.data.dataset import Data
from ftkeras.errors import UserError
from ftkeras.outputs.kinds import only_classes
from ftkeras.runs.task import Task

# --------------------------------------------------------------------------------- config.py


class OrdinalSection(Section):
    """How much the order of the classes counts."""

    weight: NonNegativeFloat = 1.0
    """Weight of the squared distance between ranks."""


class OrdinalConfig(Config):
    """A config of the task `ordinal`."""

    task: Literal["ordinal"]
    """What is learned."""
    ordinal: OrdinalSection = OrdinalSection()
    """How much the order of the classes counts."""


# ----------------------------------------------------------------------------------- task.py


class RankLoss(keras.losses.Loss):
    """Cross-entropy, and the squared distance between the expected rank and the right one."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    def call(self, y_true: Any, y_pred: Any) -> Any:
        ops = keras.ops
        ranks = ops.arange(y_pred.shape[-1], dtype=y_pred.dtype)
        expected = ops.sum(ops.softmax(y_pred) * ranks, axis=-1)
        right = ops.sum(ops.cast(y_true, y_pred.dtype) * ranks, axis=-1)
        wrong = keras.losses.categorical_crossentropy(y_true, y_pred, from_logits=True)
        return wrong + self.weight * ops.square(expected - right)


class Ordinal(Task):
    """Classes in the order of their names."""

    def check(self, config: Config, data: Data) -> None:
        super().check(config, data)
        only_classes(data.outputs, "task ordinal", exclusive=True)

    def loss(self, config: Config, data: Data) -> Any:
        assert isinstance(config, OrdinalConfig)
        return RankLoss(config.ordinal.weight)


# ------------------------------------------------------------------------------------- tests


@pytest.fixture
def config(monkeypatch, tmp_path, tiny_backbone) -> dict[str, Any]:
    """A config of the task; the package and its entry in `SCHEMAS` are there for one test."""
    package = types.ModuleType("ftkeras.tasks.ordinal")
    parts = {"config": {"OrdinalConfig": OrdinalConfig}, "task": {"TASK": Ordinal()}}
    monkeypatch.setitem(sys.modules, package.__name__, package)
    for name, content in parts.items():
        module = types.ModuleType(f"{package.__name__}.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(SCHEMAS, "ordinal", "ftkeras.tasks.ordinal.config:OrdinalConfig")
    sizes = np.arange(90) % 3
    images = np.broadcast_to(
        20 + 200 * np.eye(3)[sizes][:, None, None], (90, 32, 32, 3)
    )  # a colour each
    np.savez(tmp_path / "sizes.npz", images=images.astype(np.uint8), labels=sizes)
    return {
        "task": "ordinal",
        "data": {
            "source": "arrays",
            "path": str(tmp_path / "sizes.npz"),
            "input": {"size": 32},
            "batch_size": 9,
        },
        "backbone": {"name": tiny_backbone},
        "phases": [{"name": "head", "epochs": 3, "learning_rate": 0.1}],
        "trunk": {"mode": "off"},
        "export": {"saved_model": False},
        "report": False,
    }


def test_the_loss_counts_how_far_a_rank_is_off():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))  # the expected rank is 0.75
    loss = RankLoss(2.0)(np.eye(3)[[0, 2]], logits)
    off = 2 * (0.75**2 + 1.25**2) / 2
    assert float(loss) == pytest.approx((-np.log(0.5) - np.log(0.25)) / 2 + off)


def test_a_new_task_trains_and_is_measured(config, tmp_path):
    run = ftkeras.train(parse_config(config, ["ordinal.weight=0.5"]), str(tmp_path / "run"))
    assert run.read_json("evaluation.json")["accuracy"] > 0.9
    assert "weight: 0.5" in (tmp_path / "run" / "config.yaml").read_text()


def test_its_settings_are_checked(config, tmp_path):
    with pytest.raises(UserError, match="ordinal.wieght.*weight"):
        parse_config({**config, "ordinal": {"wieght": 1}})
    labels = {"sizes": {"kind": "labels", "column": "label"}}
    with pytest.raises(UserError, match="task ordinal: it takes one output"):
        ftkeras.train(parse_config({**config, "outputs": labels}), str(tmp_path / "run"))
