"""Weights between those of several models of one shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from ftkeras.keras_internals import flat_layers
from ftkeras.phases.recalibrate import recalibrate_batch_norm

Weights = list[np.ndarray]


def weights_of_model(model: keras.Model) -> Weights:
    """Returns a copy of all weights of a model, statistics of batch normalisation among them."""
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.weights]


def blend(ingredients: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Returns a weighted sum of models' weights; what is not float comes from the last model.

    Args:
        ingredients: The weights of each model, all of the same shapes.
        shares: One a model; they add up to 1.

    Example:
        >>> blend([[np.array([0.0])], [np.array([4.0])]], [0.75, 0.25])
        [array([1.])]
    """
    blended = []
    for values in zip(*ingredients, strict=True):
        if not np.issubdtype(values[-1].dtype, np.floating):
            blended.append(values[-1])
            continue
        # 0 times what is not finite would not be 0; and a sum that begins with 0 has no -0, so what
        # is the same in all models would get other bits, by which a stored trunk is found.
        pairs = zip(values, shares, strict=True)
        parts = [share * value.astype(np.float64) for value, share in pairs if share]
        blended.append(functools.reduce(np.add, parts).astype(values[-1].dtype))
    return blended


class Blender:
    """Puts blends of some models' weights into a model.

    If the models' batch normalisation has other statistics, no blend of these is right for the
    blended weights (Wortsman et al. 2022; Izmailov et al. 2018): they are estimated again. Those of
    a frozen normalisation are the same in all models, and stay.

    Args:
        model: What takes the weights.
        ingredients: The weights of each model, as `weights_of_model` returns them.
        data: Batches to estimate statistics on.
    """

    def __init__(self, model: keras.Model, ingredients: Sequence[Weights], data: tf.data.Dataset):
        self._model = model
        self._ingredients = ingredients
        self._data = data
        statistics = {
            id(statistic)
            for layer in flat_layers(model)
            if isinstance(layer, keras.layers.BatchNormalization)
            for statistic in (layer.moving_mean, layer.moving_variance)
        }
        indices = [index for index, v in enumerate(model.weights) if id(v) in statistics]
        first, *others = ingredients
        self.recalibrates = any(
            not np.array_equal(first[index], other[index]) for other in others for index in indices
        )
        """Whether the statistics of batch normalisation differ between the models."""

    def put(self, shares: Sequence[float]) -> None:
        """Sets the model's weights to a blend, one share a model; a share of 1 is a model as is."""
        for variable, value in zip(
            self._model.weights, blend(self._ingredients, shares), strict=True
        ):
            variable.assign(value)
        if self.recalibrates and max(shares) < 1:
            recalibrate_batch_norm(self._model, self._data)
