"""Runs that stop in the middle, as Ctrl-C stops them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def train_until(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains a config into a folder, and stops as if Ctrl-C were pressed after a training step."""
    import keras

    from ftkeras.config.schema import Config
    from ftkeras.runs.task import Task
    from ftkeras.runs.train import train

    class Killed(keras.callbacks.Callback):
        def __init__(self, step: int):
            super().__init__()
            self._left = step

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt

    def until(step: int, config: Config, folder: str | os.PathLike[str]) -> None:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Task, "callbacks", lambda self, assembled: [Killed(step)])
            train(config, str(folder))

    return until
