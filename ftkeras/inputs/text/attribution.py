"""The contribution of each token of a text to an answer.

Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks". Gradients are averaged
on the path from an empty text, whose embedding is zero, to the text. The contributions of its
tokens add up to the difference between the two scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.graph import Graph, GraphModel, Step, Tensor, flatten
from ftkeras.inputs.base import Tree
from ftkeras.keras_internals import flat_layers

_STEPS = 16

Explain = Callable[[Tree, int], np.ndarray]
"""From the model's inputs for one text, and a class, to a number per token, float32 (steps,)."""


def integrated_gradients(
    model: keras.Model, logits_of: Callable[[Any], tf.Tensor], *, exclusive: bool = True
) -> Explain | None:
    """Returns a function that computes each token's contribution to the score of a class.

    Args:
        model: From numbers of tokens to logits or scores; functional, and the backbone may be
            nested in it.
        logits_of: From the model's outputs to logits (n, classes).
        exclusive: Whether exactly one class is right: the score is then its log-probability, which
            ignores what supports all classes equally. Otherwise it is the logit.

    Returns:
        None if the model has no embedding of tokens.

    Example:
        ```python
        explain = integrated_gradients(model, ending_of(model).logits)
        weights = explain(token_ids, 2)  # (steps,)
        ```
    """
    graph = flatten(model)
    place = None if graph is None else _embedding(graph)
    if graph is None or place is None:
        return None
    (found,) = graph.steps[place].outputs
    embed = GraphModel(
        Graph(graph.steps[: place + 1], graph.inputs, (found,), found, graph.names), "embed"
    )
    answer = GraphModel(_with_embedding(graph, place), "answer")
    ids = [tf.TensorSpec((1, *x.shape[1:]), x.dtype) for x in graph.inputs]

    @tf.function(autograph=False, input_signature=[ids, tf.TensorSpec((), tf.int32)])
    def weigh(inputs: list[tf.Tensor], label: tf.Tensor) -> tf.Tensor:
        embedded = embed(inputs, training=False)  # (1, steps, channels)
        middles = (tf.range(_STEPS, dtype=tf.float32) + 0.5) / _STEPS
        way = tf.cast(middles, embedded.dtype)[:, None, None] * embedded
        repeated = [tf.repeat(x, _STEPS, axis=0) for x in inputs]
        with tf.GradientTape() as tape:
            tape.watch(way)  # (16, steps, channels)
            scores = logits_of(answer([*repeated, way], training=False))  # (16, classes)
            if exclusive:
                scores = tf.nn.log_softmax(scores)
            chosen = tf.gather(scores, label, axis=1)
        slopes = tf.reduce_mean(tf.cast(tape.gradient(chosen, way), tf.float32), axis=0)
        return tf.reduce_sum(slopes * tf.cast(embedded[0], tf.float32), axis=-1)  # (steps,)

    def explain(inputs: Tree, label: int) -> np.ndarray:
        batch = tf.nest.map_structure(lambda x: x[None], inputs)
        weights: np.ndarray = weigh(graph.in_order(batch), tf.constant(label, tf.int32)).numpy()
        return weights

    return explain


def _embedding(graph: Graph) -> int | None:
    """Returns the index of the step that embeds tokens: the one with the largest vocabulary."""
    sizes = {
        place: max(_vocabularies(step), default=0)
        for place, step in enumerate(graph.steps)
        if len(step.outputs) == 1 and len(step.outputs[0].shape) == 3
    }
    best = max(sizes, key=sizes.__getitem__, default=None)
    return best if best is not None and sizes[best] else None


def _vocabularies(step: Step) -> list[int]:
    if not isinstance(step.operation, keras.layers.Layer):
        return []
    layers = flat_layers(step.operation)
    return [layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)]


def _with_embedding(graph: Graph, place: int) -> Graph:
    """Returns the graph with one more input, the last, which replaces the embedding."""
    step = graph.steps[place]
    (found,) = step.outputs
    own, instead = (Tensor(found.shape, found.dtype) for _ in range(2))
    steps = list(graph.steps)
    steps[place : place + 1] = [
        dataclasses.replace(step, outputs=(own,)),
        Step(_Instead(), ([own, instead],), {}, (found,)),
    ]
    return Graph(tuple(steps), (*graph.inputs, instead), graph.outputs, graph.structure)


class _Instead(keras.layers.Layer):
    """Takes two tensors and returns the second, with the Keras mask of the first."""

    def __init__(self) -> None:
        super().__init__(autocast=False)

    def call(self, inputs: Any) -> Any:
        return keras.ops.copy(inputs[1])

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return None if previous_mask is None else previous_mask[0]
