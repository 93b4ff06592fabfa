"""Puts preprocessing, backbone and head together into one model."""

from __future__ import annotations

from typing import Any

import keras

from ftkeras.backbones import Backbone
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.model.head import attach_head


def build_model(backbone: Backbone, classes: int, **head: Any) -> keras.Model:
    """Returns a classifier that takes raw images and gives logits.

    Preprocessing is inside, so training, evaluation and serving cannot differ in it.

    Args:
        backbone: What `load_backbone` returned.
        classes: How many logits.
        **head: Options of `ftkeras.model.head.attach_head`: pooling, hidden, dropout, ...

    Returns:
        A model from float32 images (batch, size, size, 3) with values 0..255 in RGB order to
        float32 logits (batch, classes). The backbone is one nested layer of it.

    Example:
        ```python
        backbone = ftkeras.load_backbone("MobileNetV2", weights="starter", image_size=96)
        model = ftkeras.build_model(backbone, classes=10, dropout=0.3)
        ```
    """
    images = keras.Input(backbone.model.input_shape[1:], name="image", dtype="float32")
    features = backbone.model(preprocess(images, backbone.preprocessing))
    return keras.Model(images, attach_head(features, classes, **head), name="classifier")
