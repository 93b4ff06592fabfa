"""What the shipped backbone makes of images, to compare them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from ftkeras.backbones import load_backbone
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.inputs.image.input import ImageInput
from ftkeras.model.inference import outputs_function

WHAT = "a backbone's features"
_SIZE = 96  # enough to tell things apart, and quick
_BATCH = 64
_CHANNELS = 1280


def make(
    looks: Any, batches: Callable[..., Iterable[tuple[np.ndarray, np.ndarray]]]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from rows (m,) to features float32 (m, 1280).

    Args:
        looks: What was seen of the images; not needed.
        batches: From rows (m,), an input and a batch size to places among the rows (b,) and what
            the input reads of them (b, ...).
    """
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=_SIZE)
    inputs = keras.Input((_SIZE, _SIZE, 3))
    maps = backbone.model(preprocess(inputs, backbone.preprocessing))
    reader = ImageInput(_SIZE, "squash")
    answer = outputs_function(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps)))

    def features(rows: np.ndarray) -> np.ndarray:
        made = np.empty((len(rows), _CHANNELS), np.float32)
        for places, batch in batches(rows, reader, _BATCH):
            made[places] = answer(batch).numpy()
        return made

    return features
