"""Puts preprocessing, backbone and head together into one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from ftkeras.backbones import Backbone
from ftkeras.backbones.preprocessing import RAW, preprocess
from ftkeras.model.head import attach_head, attach_logits, logits_name, shared_layers


def build_model(backbone: Backbone, classes: int, **head: Any) -> keras.Model:
    """Returns a classifier from raw images, or the backbone's own inputs, to logits.

    Preprocessing is inside, so training, evaluation and serving cannot differ in it.

    Args:
        backbone: What `load_backbone` returned.
        classes: The number of logits.
        **head: Options of `ftkeras.model.head.attach_head`: pooling, hidden, dropout, ...

    Returns:
        A model from float32 images (batch, size, size, 3) with values 0..255 in RGB order to
        float32 logits (batch, classes). The backbone is one nested layer of it. If the backbone
        takes anything else, so does the model, by the same names.

    Example:
        ```python
        backbone = ftkeras.load_backbone("MobileNetV2", weights="starter", image_size=96)
        model = ftkeras.build_model(backbone, classes=10, dropout=0.3)
        ```
    """
    inputs, features, mask = backbone_features(backbone)
    logits = attach_head(features, classes, mask=mask, front=backbone.front, **head)
    return keras.Model(inputs, logits, name="classifier")


def build_heads(
    backbone: Backbone,
    units: Mapping[str, int],
    *,
    biases: Mapping[str, np.ndarray | None],
    initializer: str = "glorot_uniform",
    seed: int = 0,
    make: Callable[..., keras.Model] = keras.Model,
    **shared: Any,
) -> keras.Model:
    """Returns a model of several outputs on one backbone, which takes raw images.

    The last layers are `logits_NAME`; all before them is shared.

    Args:
        backbone: What `load_backbone` returned.
        units: By head, the number of its outputs.
        biases: By head, the first bias, float (units,); zeros for None, or if left out.
        initializer: Keras initialiser name for the last kernels.
        seed: Seed of initialisers and dropout.
        make: The model's class, perhaps one with a loss of its own.
        **shared: Options of `ftkeras.model.head.shared_layers`: pooling, hidden, dropout.

    Returns:
        A model like that of `build_model`, whose output is a dict of float32 (batch, units).
    """
    inputs, features, mask = backbone_features(backbone)
    x = shared_layers(features, mask=mask, front=backbone.front, seed=seed, **shared)
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
    return make(inputs=inputs, outputs=outputs, name="heads")


def backbone_features(
    backbone: Backbone,
) -> tuple[Any, keras.KerasTensor, keras.KerasTensor | None]:
    """Returns fresh inputs, the backbone's features of them, and the features' mask.

    The mask of a sequence is the input `padding_mask`, as keras-hub names it; None leaves it to the
    Keras mask that the features may have.
    """
    wanted = backbone.model.inputs
    if len(wanted) == 1 and len(wanted[0].shape) == 4:
        raw = keras.Input(wanted[0].shape[1:], name=RAW, dtype="float32")
        return raw, backbone.model(preprocess(raw, backbone.preprocessing)), None
    inputs = {x.name: keras.Input(x.shape[1:], name=x.name, dtype=x.dtype) for x in wanted}
    given = inputs if len(inputs) > 1 else inputs[wanted[0].name]
    mask = inputs.get("padding_mask") if backbone.gives == "sequence" else None
    return given, backbone.model(given), mask
