"""The parts of an image that support a model's answer.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.graph import Graph, GraphModel, Step, Tensor, flatten


def grad_cam(
    model: keras.Model, logits_of: Callable[[Any], tf.Tensor]
) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """Returns a function that maps a class to the parts of an image that support it.

    Gradients flow only from a logit back to the last feature map, through pooling and head; the
    layers before it may be of any kind.

    Args:
        model: From images (n, size, size, 3) to logits or scores (n, units); functional, and the
            backbone may be nested in it.
        logits_of: From the model's outputs to logits (n, classes): `Ending.logits`.

    Returns:
        From images (n, size, size, 3) and class indices (n,) to float32 maps (n, h, w), whose
        highest value is 1 (all 0 if nothing supports the class); h and w are those of the
        feature map. None if the model has no feature map that all of the output depends on.

    Example:
        ```python
        explain = grad_cam(model, ending_of(model).logits)
        heat = explain(inputs, logits.argmax(axis=-1))
        ```
    """
    graph = flatten(model)
    cut = None if graph is None else _last_map(graph)
    if graph is None or cut is None:
        return None
    feature_map, after = cut
    before = Graph(graph.steps[:after], graph.inputs, (feature_map,), feature_map)
    behind = Graph(graph.steps[after:], (feature_map,), graph.outputs, graph.structure)
    to_map, to_outputs = GraphModel(before, "to_map"), GraphModel(behind, "to_outputs")

    def explain(inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        features = tf.cast(to_map(tf.convert_to_tensor(inputs), training=False), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(features)  # (n, h, w, channels)
            logits = logits_of(to_outputs(features, training=False))  # (n, classes)
            chosen = tf.gather(logits, tf.constant(classes, tf.int32), axis=1, batch_dims=1)
        slopes = tape.gradient(chosen, features)
        importance = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)  # (n, 1, 1, channels)
        heat = tf.nn.relu(tf.reduce_sum(importance * features, axis=-1))  # (n, h, w)
        return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True)).numpy()

    return explain


def _last_map(graph: Graph) -> tuple[Tensor, int] | None:
    """Returns the last feature map that all of the output depends on, and its index in the steps.

    The steps are in an order in which they can run. So those up to the one that makes the map do
    not need the map, and those after it may use no other earlier tensor.
    """
    for index in range(len(graph.steps), 0, -1):
        for tensor in graph.steps[index - 1].outputs:
            if len(tensor.shape) == 4 and _passes_through(graph, tensor, graph.steps[index:]):
                return tensor, index
    return None


def _passes_through(graph: Graph, tensor: Tensor, steps: tuple[Step, ...]) -> bool:
    known = {tensor}
    for step in steps:
        if not known.issuperset(step.inputs):
            return False
        known.update(step.outputs)
    return known.issuperset(graph.outputs)
