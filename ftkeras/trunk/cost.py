"""How much work a stretch of a network is, counted from its graph."""

from __future__ import annotations

import math

import keras

from ftkeras.model.graph import Graph, Step

# What is computed number by number waits for memory: it costs about as much as ten multiplications
# in a matrix product, on CPUs as on GPUs.
_ELEMENTWISE = 10.0


def work(graph: Graph) -> float:
    """Returns the multiplications that one example takes forward; a measure to compare parts by.

    A weight of two or more dimensions (kernels of convolutions and of dense layers) is used once
    for each place of the output; all other operations count by the size of their output.

    Example:
        >>> images = keras.Input((8, 8, 3))
        >>> model = keras.Model(images, keras.layers.Conv2D(4, 1, use_bias=False)(images))
        >>> work(flatten(model))  # 8 * 8 places * 3 * 4 weights, and 8 * 8 * 4 numbers put out
        3328.0
    """
    return sum(map(_work, graph.steps))


def _work(step: Step) -> float:
    outputs = [[size or 1 for size in x.shape[1:]] for x in step.outputs]
    numbers = sum(math.prod(sizes) for sizes in outputs)
    positions = max((math.prod(sizes[:-1]) for sizes in outputs if sizes), default=1)
    weights = step.operation.weights if isinstance(step.operation, keras.layers.Layer) else ()
    kernels = sum(math.prod(weight.shape) for weight in weights if len(weight.shape) > 1)
    return kernels * positions + _ELEMENTWISE * numbers
