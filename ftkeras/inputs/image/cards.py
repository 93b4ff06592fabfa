"""What a report shows of an image: the image as the model gets it, and where the model looked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.inputs.base import PLAIN, Input, Shown
from ftkeras.inputs.image import show
from ftkeras.inputs.image.explanation import grad_cam


def draw(
    kind: Input,
    shown: Sequence[Shown],
    model: keras.Model,
    logits_of: Callable[[Any], tf.Tensor],
    exclusive: bool,
) -> list[dict[str, Any]]:
    """Returns the data URIs of each image for `pictures.json`.

    Args:
        kind: How images are read.
        shown: The images.
        model: From images (n, size, size, 3) to logits or scores.
        logits_of: From the model's outputs to logits (n, classes).
        exclusive: Whether exactly one class is right; Grad-CAM explains a logit in either case.

    Returns:
        `image`, and if there is room `overlay` and the map's size as `cells`.
    """
    images = [np.asarray(kind.read(one.raw, PLAIN, tf.zeros(2, tf.int32))) for one in shown]
    cards: list[dict[str, Any]] = [{"image": show.data_uri(one)} for one in images]
    places = [place for place, one in enumerate(shown) if one.beside]
    explain = grad_cam(model, logits_of) if places else None
    if explain is None:
        return cards
    stacked = np.stack([images[place] for place in places])
    heat = explain(stacked, np.array([shown[place].explained for place in places]))
    if heat[0].size > 1:  # a single cell shows no location
        for place, where in zip(places, heat, strict=True):
            overlay = show.data_uri(show.overlay(images[place], where))
            cards[place] |= {"overlay": overlay, "cells": list(where.shape)}
    return cards
