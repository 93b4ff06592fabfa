"""What the shipped backbone makes of images: features in which like things lie close together.

The shipped one and not the config's, which may be slow, random, or the very thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import load_backbone
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.console import Progress
from ftkeras.data.dataset import ImageData
from ftkeras.inputs.image.decode import resize_image, whole
from ftkeras.inputs.image.looks import Looks
from ftkeras.model.inference import outputs_function

_SIZE = 96  # pixels: enough to tell images apart, and quick
_BATCH = 64


def make_embedding(data: ImageData, looks: Looks) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from rows of `looks` (m,) to features float32 (m, 1280)."""
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=_SIZE)
    images = keras.Input((_SIZE, _SIZE, 3))
    maps = backbone.model(preprocess(images, backbone.preprocessing))
    answer = outputs_function(keras.Model(images, keras.layers.GlobalAveragePooling2D()(maps)))

    def features(rows: np.ndarray) -> np.ndarray:
        embeddings = np.empty((len(rows), 1280), np.float32)
        progress = Progress("compare images", len(rows))
        for name, split in data.splits.items():
            inside = np.flatnonzero(looks.splits[rows] == name)
            indices = tf.data.Dataset.from_tensor_slices(looks.indices[rows[inside]])
            batches = indices.map(
                lambda index, fetch=split.fetch: resize_image(whole(fetch(index)), _SIZE, "squash"),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            ).batch(_BATCH)
            at = 0
            for batch in batches.prefetch(1):
                embeddings[inside[at : at + len(batch)]] = answer(batch).numpy()
                at += len(batch)
                progress.advance(len(batch))
        progress.close()
        return embeddings

    return features
