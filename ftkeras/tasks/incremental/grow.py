"""A classifier that gets more classes: old logits stay, new ones start from their images."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ftkeras.backbones.blocks import leaf_layers
from ftkeras.errors import UserError

_STEPS = 50  # of Newton's method


def copy_body(source: keras.Model, target: keras.Model) -> None:
    """Gives a model all weights of another one except those of its logits.

    Raises:
        UserError: They differ in more than the number of classes.
    """
    old, new = ([layer for layer in leaf_layers(m) if layer.weights][:-1] for m in (source, target))
    shapes = [
        [[tuple(w.shape) for w in layer.weights] for layer in layers] for layers in (old, new)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            "incremental.base: that run's model has other layers than this config's backbone, head "
            "and data make. Leave these sections as they are in the run's config."
        )
    for one, other in zip(old, new, strict=True):
        other.set_weights(one.get_weights())


def grow_logits(
    kernel: np.ndarray,
    bias: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    cosine: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits' weights for more classes: the old ones as they are, then the new ones.

    A new column points from the mean of all classes to the mean of its own images (compare Qi et
    al. 2018, "Low-shot learning with imprinted weights") and has the old columns' mean length. At
    the mean of all classes, its logit equals the mean of the old logits. Its bias is chosen for
    that; cosines have no bias, so the angle is.

    Args:
        kernel: The old one, float32 (d, k).
        bias: The old one, float32 (k,).
        features: The inputs of the logits for images of the new classes, and perhaps of old ones,
            float32 (n, d).
        labels: Their classes, int (n,).
        classes: How many classes there will be.
        cosine: Whether features have one length.

    Returns:
        float32 (d, classes) and (classes,).
    """
    old = kernel.shape[1]
    means = {c: features[labels == c].mean(axis=0) for c in np.unique(labels)}
    center = np.mean(list(means.values()), axis=0) if means else np.zeros(len(kernel))
    away = center if len(means) > 1 else np.zeros_like(center)
    length = float(np.linalg.norm(kernel, axis=0).mean())
    columns = np.zeros((len(kernel), classes - old))
    for c, mean in means.items():
        if c >= old:
            columns[:, c - old] = length * (
                _at_angle(mean, center, _unit(kernel).mean(axis=1))
                if cosine
                else _unit(mean - away)
            )
    offset = np.full(classes - old, bias.mean())
    if not cosine:
        offset += (center @ kernel).mean() - center @ columns
    grown = np.concatenate([kernel, columns], axis=1), np.concatenate([bias, offset])
    return grown[0].astype(np.float32), grown[1].astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Returns columns (d, ...) of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)


def _at_angle(mean: np.ndarray, center: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Returns the direction toward a mean that has the old columns' cosine with the center.

    Features are positive, so all means lie close together. The mean's own direction would have a
    larger cosine with images of any class than old columns, which learned to separate them.
    """
    middle = _unit(center)
    level = float(np.clip(usual @ middle, -0.99, 0.99))
    away = mean - (mean @ middle) * middle
    if np.linalg.norm(away) < 1e-6 * np.linalg.norm(mean):
        return middle  # there is only one class
    return level * middle + np.sqrt(1 - level**2) * _unit(away)


def to_cosine(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of a cosine head that are closest to those of a linear head.

    The columns keep their directions, get their mean length, and lose their bias.

    Args:
        kernel: Float32 (d, k).
        bias: Float32 (k,).
    """
    length = np.linalg.norm(kernel, axis=0).mean()
    return (_unit(kernel) * length).astype(np.float32), np.zeros_like(bias)


def alignment(kernel: np.ndarray, old: int) -> float:
    """Returns the mean length of the old columns, divided by that of the new ones.

    New logits times this factor are as large as old ones (Zhao et al. 2020, "Maintaining
    discrimination and fairness in class incremental learning").

    Args:
        kernel: The logits' weights, (d, classes).
        old: How many of the classes are old.

    Example:
        >>> alignment(np.array([[3.0, 0.0], [0.0, 4.0]]), old=1)
        0.75
    """
    lengths = np.linalg.norm(kernel, axis=0)
    return float(lengths[:old].mean() / max(lengths[old:].mean(), 1e-12))


def fit_bias(logits: np.ndarray, labels: np.ndarray, old: int) -> tuple[float, float]:
    """Returns the factor and the offset of the new logits that make the labels likeliest.

    All classes have the same weight, whatever their size (Wu et al. 2019, "Large scale incremental
    learning"). The likelihood is concave in both, so Newton's method finds them. A small quadratic
    penalty keeps them finite if no image is misclassified.

    Args:
        logits: The logits of images that were not trained on, float (n, classes).
        labels: Their classes, int (n,).
        old: How many of the classes are old.
    """
    z = np.asarray(logits, np.float64)
    counts = np.bincount(labels, minlength=z.shape[1])
    weight = 1.0 / counts[labels] / np.count_nonzero(counts)  # (n,)
    is_new = np.arange(z.shape[1]) >= old
    moves = np.stack([z * is_new, np.broadcast_to(is_new, z.shape)], axis=2)  # (n, classes, 2)
    start = np.array([1.0, 0.0])
    at = start.copy()

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        shifted = np.where(is_new, at[0] * z + at[1], z)
        shifted -= shifted.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        own = np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
        return float(-(weight * own).sum() + 5e-4 * ((at - start) ** 2).sum()), np.exp(log_p)

    value, p = loss(at)
    for _ in range(_STEPS):
        mean = np.einsum("nc,ncj->nj", p, moves)
        own = moves[np.arange(len(z)), labels]
        gradient = weight @ (mean - own) + 1e-3 * (at - start)
        spread = np.einsum("n,nc,nci,ncj->ij", weight, p, moves, moves)
        curvature = spread - np.einsum("n,ni,nj->ij", weight, mean, mean) + 1e-3 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while np.abs(step).max() > 1e-9:
            lower, q = loss(at - step)
            if lower <= value:
                at, value, p = at - step, lower, q
                break
            step = step / 2
        else:
            break
    return float(at[0]), float(at[1])


def scale_new(logits: keras.layers.Dense, old: int, factor: float, offset: float = 0.0) -> None:
    """Changes the layer's weights so that the new logits are `factor * logit + offset`."""
    kernel, bias = logits.get_weights()
    kernel[:, old:] *= factor
    bias[old:] = factor * bias[old:] + offset
    logits.set_weights([kernel, bias])


class EqualLengths(keras.callbacks.Callback):
    """Keeps the ratios of a layer's column lengths, and its bias.

    On features of one length, logits are then cosines times one learned scale. A longer column
    would favour classes with more images (Hou et al. 2019, "Learning a unified classifier
    incrementally via rebalancing"). After each step the columns get their first lengths again,
    times the mean growth of all.

    Args:
        layer: The dense layer of the logits. Make this before a checkpoint is loaded.
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
