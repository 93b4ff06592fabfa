"""Where `fit` stands in the data: tells the feed which epoch begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from ftkeras.data.feed import Feed
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.training.resume.state_file import Tree

Logs = dict[str, Any]


class DataPosition(keras.callbacks.Callback):
    """Tells the data which epoch begins, and how strongly its phase augments.

    `fit` asks for the epoch's first batch after this; order and augmentation follow from it.
    """

    def __init__(self, feed: Feed, unfreeze: StagedUnfreezing):
        super().__init__()
        self._feed = feed
        self._unfreeze = unfreeze
        self._strength: str | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        batches = self._unfreeze.position[1]
        self._feed.epoch.assign(epoch)
        self._feed.start.assign(batches * self._feed.batch_size)
        if batches == 0:  # else the strength is that with which the epoch began
            self._strength = self._unfreeze.phase.augmentation
        self._feed.set_view(self._strength)

    def state(self) -> Tree:
        """Returns the strength of the epoch's augmentation."""
        return {"strength": self._strength}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self._strength = state["strength"]
