"""Keeps the logits of a cosine head cosines."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


class EqualLengths(keras.callbacks.Callback):
    """Keeps the lengths of a layer's columns in proportion, and its bias as it is.

    On features of one length, logits are then cosines times one learned scale, so that a class
    gains nothing by a longer column: what makes classes with more images win (Hou et al. 2019,
    "Learning a unified classifier incrementally via rebalancing"). After each step the columns go
    back to the lengths that they had when this was made, times the mean of what each grew by.

    Args:
        layer: The dense layer that gives the logits; make this before a checkpoint is loaded.
    """

    def __init__(self, layer: keras.layers.Dense):
        super().__init__()
        kernel, self._bias = layer.get_weights()
        self._layer = layer
        self._lengths = np.linalg.norm(kernel, axis=0)  # (classes,)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        kernel, _ = self._layer.get_weights()
        lengths = np.maximum(np.linalg.norm(kernel, axis=0), 1e-12)
        scale = np.mean(lengths / np.maximum(self._lengths, 1e-12))
        self._layer.set_weights([kernel * (scale * self._lengths / lengths), self._bias])
