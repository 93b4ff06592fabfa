"""The shipped backbone's features of images, for comparing images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import load_backbone
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.inputs.image.input import ImageInput

WHAT = "a backbone's features"
_SIZE = 96  # large enough to distinguish objects, and fast
_BATCH = 64
_CHANNELS = 1280


def make(
    looks: Any, batches: Callable[..., Iterable[tuple[np.ndarray, np.ndarray]]]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from rows (m,) to features float32 (m, 1280).

    Args:
        looks: Measurements of the images; not needed.
        batches: From rows (m,), an input and a batch size to indices among the rows (b,) and the
            prepared images (b, ...).
    """
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=_SIZE)
    inputs = keras.Input((_SIZE, _SIZE, 3))
    maps = backbone.model(preprocess(inputs, backbone.preprocessing))
    reader = ImageInput(_SIZE, "squash")
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, *inputs.shape[1:]))])
    def answer(batch: tf.Tensor) -> tf.Tensor:
        return network(batch, training=False)

    def features(rows: np.ndarray) -> np.ndarray:
        made = np.empty((len(rows), _CHANNELS), np.float32)
        for places, batch in batches(rows, reader, _BATCH):
            made[places] = answer(batch).numpy()
        return made

    return features
