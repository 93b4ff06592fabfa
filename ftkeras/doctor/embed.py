"""What the shipped backbone makes of examples: features in which like things lie close together.

The shipped one and not the config's, which may be slow, random, or the very thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ftkeras.backbones import load_backbone
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.console import Progress
from ftkeras.data.dataset import Data
from ftkeras.data.pipeline import plain
from ftkeras.inputs.base import Input
from ftkeras.model.inference import outputs_function

_SIZE = 96  # enough to tell things apart, and quick
_BATCH = 64


def make_embedding(data: Data, kind: Input, looks: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from rows of `looks` (m,) to features float32 (m, 1280)."""
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=_SIZE)
    inputs = keras.Input((_SIZE, _SIZE, 3))
    maps = backbone.model(preprocess(inputs, backbone.preprocessing))
    reader = kind.able("looks", "doctor").reader(_SIZE)
    answer = outputs_function(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps)))

    def features(rows: np.ndarray) -> np.ndarray:
        embeddings = np.empty((len(rows), 1280), np.float32)
        progress = Progress(f"compare {kind.nouns}", len(rows))
        for name, split in data.splits.items():
            inside = np.flatnonzero(looks.splits[rows] == name)
            chosen, at = split.take(looks.indices[rows[inside]]), 0
            for batch, *_ in plain(chosen, reader, _BATCH):
                embeddings[inside[at : at + len(batch)]] = answer(batch).numpy()
                at += len(batch)
                progress.advance(len(batch))
        progress.close()
        return embeddings

    return features
