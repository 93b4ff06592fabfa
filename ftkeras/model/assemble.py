"""Puts preprocessing, backbone and head together into one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from ftkeras.backbones import Backbone
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.model.head import attach_head, attach_logits, logits_name, shared_layers


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


def build_heads(
    backbone: Backbone,
    units: Mapping[str, int],
    *,
    biases: Mapping[str, np.ndarray],
    initializer: str = "glorot_uniform",
    seed: int = 0,
    make: Callable[..., keras.Model] = keras.Model,
    **shared: Any,
) -> keras.Model:
    """Returns a model of several outputs on one backbone, which takes raw images.

    The last layers are `logits_NAME`; all before them is shared.

    Args:
        backbone: What `load_backbone` returned.
        units: By head, how many numbers it puts out.
        biases: By head, the bias to start from, float (units,); zeros where left out.
        initializer: Keras initialiser name for the last kernels.
        seed: Seed of initialisers and dropout.
        make: The model's class, perhaps one with a loss of its own.
        **shared: Options of `ftkeras.model.head.shared_layers`: pooling, hidden, dropout.

    Returns:
        A model like that of `build_model`, whose output is a dict of float32 (batch, units).
    """
    images = keras.Input(backbone.model.input_shape[1:], name="image", dtype="float32")
    x = shared_layers(
        backbone.model(preprocess(images, backbone.preprocessing)), seed=seed, **shared
    )
    outputs = {
        name: attach_logits(
            x,
            count,
            initializer=initializer,
            bias=biases.get(name),
            seed=seed + number,
            name=logits_name(name),
        )
        for number, (name, count) in enumerate(units.items())
    }
    return make(inputs=images, outputs=outputs, name="heads")
