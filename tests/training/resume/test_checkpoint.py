"""Which epoch is the best, and what is kept of it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.errors import TrainingError
from ftkeras.run import Run
from ftkeras.training.resume.checkpoint import Checkpoints


def keep(tmp_path, monitor: str, epochs: list[dict[str, float]]) -> tuple[Checkpoints, Run]:
    """Plays epochs with the given logs; epoch i's weight is i."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    run = Run(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    callback = Checkpoints(model, run, monitor)
    for number, logs in enumerate(epochs):
        model.set_weights([np.full((1, 1), number, "float32")])
        callback.on_epoch_end(number, logs)
    return callback, run


def best_weight(callback: Checkpoints) -> float:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    callback.load_best(model)
    return float(model.get_weights()[0][0, 0])


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [("val_loss", [3.0, 1.0, 2.0], 1), ("val_accuracy", [0.1, 0.5, 0.2], 1)],
)
def test_the_best_epoch_follows_the_metric(tmp_path, monitor, values, best):
    callback, _ = keep(tmp_path, monitor, [{"loss": 1.0, monitor: v} for v in values])
    assert callback.best_epoch == best
    assert best_weight(callback) == best


def test_of_equal_epochs_the_one_with_the_lower_loss_is_the_best(tmp_path):
    logs = [{"loss": 0.0, "val_accuracy": 0.9, "val_loss": loss} for loss in (0.3, 0.1, 0.2)]
    callback, _ = keep(tmp_path, "val_accuracy", logs)
    assert callback.best_epoch == 1


def test_a_metric_that_is_not_logged_is_named(tmp_path):
    with pytest.raises(TrainingError, match="Did you mean 'val_accuracy'"):
        keep(tmp_path, "val_acuracy", [{"loss": 1.0, "val_accuracy": 0.5}])


def test_the_best_weights_that_the_last_two_states_know_of_are_kept(tmp_path):
    def files() -> list[str]:
        return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())

    callback, _ = keep(tmp_path, "val_loss", [{"loss": 1.0, "val_loss": 3.0}])
    callback.note_state()
    older = callback.state()
    callback.on_epoch_end(1, {"loss": 1.0, "val_loss": 2.0})
    callback.on_epoch_end(2, {"loss": 1.0, "val_loss": 1.0})
    assert files() == ["best-0001.ckpt", "best-0003.ckpt"]  # no state knows of the second
    callback.note_state()
    callback.on_epoch_end(3, {"loss": 1.0, "val_loss": 0.5})
    assert files() == ["best-0001.ckpt", "best-0003.ckpt", "best-0004.ckpt"]
    callback.load_state(older)  # of a process that was killed, and whose newest state is damaged
    assert callback.best_epoch == 0 and best_weight(callback) == 0
