"""How much work a part of a network is, counted from its graph."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from ftkeras.graph import Graph, Step, Tensor, flatten
from ftkeras.keras_internals import flat_layers, own_variables

# Elementwise operations wait for memory: one costs about as much as ten multiplications in a
# matrix product, on CPUs and on GPUs.
_ELEMENTWISE = 10.0
NOMINAL_LENGTH = 128  # used for a size that only the batch decides


def work(graph: Graph, length: int = NOMINAL_LENGTH) -> float:
    """Returns the multiplications of one example's forward pass, as a measure to compare parts.

    - A weight of two or more dimensions (kernels of convolutions and of dense layers) is used once
      for each position of the output. A weight of a recurrent layer is used for each step of its
      input.
    - A table of embeddings is only read.
    - Attention multiplies each query with each key, and each weight with each value.
    - All other operations count by the size of their output.
    - Of a layer that has others inside, those count.

    Args:
        graph: The calls to count.
        length: Used for unknown sizes, except that of the batch.

    Example:
        >>> inputs = keras.Input((8, 8, 3))
        >>> model = keras.Model(inputs, keras.layers.Conv2D(4, 1, use_bias=False)(inputs))
        >>> work(flatten(model))  # 8 * 8 places * 3 * 4 weights, and 8 * 8 * 4 numbers put out
        3328.0
    """
    return sum(_work(step, length) for step in graph.steps)


def is_table(weight: Any) -> bool:
    """Whether a weight holds embeddings, of which a layer reads a few and multiplies none."""
    return "embedding" in weight.name


def _work(step: Step, length: int) -> float:
    layer = step.operation
    inner = flatten(layer) if isinstance(layer, keras.Model) else None
    if inner is not None:
        return work(inner, length)
    outputs, inputs = _sizes(step.outputs, length), _sizes(step.inputs, length)
    numbers = sum(map(math.prod, outputs))
    if not isinstance(layer, keras.layers.Layer):
        return _ELEMENTWISE * numbers
    parts, places = flat_layers(layer), _places(outputs)
    if any(isinstance(part, keras.layers.RNN) for part in parts):
        places = max(places, _places(inputs))  # it may return only its last step
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum(layer) * numbers + _ELEMENTWISE * numbers
    sources = _places(inputs)
    products = sum(_products(part, step, places, sources) for part in parts)
    # The outputs of the layers inside; the last of them made the layer's outputs.
    inside = sum(places * _width(part) for part in parts[1:])
    return products + _ELEMENTWISE * max(numbers, inside)


def _products(layer: keras.layers.Layer, step: Step, places: int, sources: int) -> float:
    """Returns the multiplications in products of matrices, of a layer without those inside it.

    Args:
        layer: What the step calls, or a layer inside.
        step: The call.
        places: How many places of the output kernels are used for.
        sources: How many places there are in the input: the keys of attention.
    """
    weights = [w for own in own_variables(layer) for w in own if len(w.shape) > 1]
    used = (w for w in weights if not (is_table(w) or w.name == "bias" or _is_factor(w)))
    kernels = sum(math.prod(w.shape) for w in used)
    if isinstance(layer, keras.layers.ReversibleEmbedding) and step.kwargs.get("reverse"):
        kernels = max(math.prod(w.shape) for w in weights)  # scores of all words
    scored = 0.0  # what one pair of query and key takes
    if isinstance(layer, keras.layers.MultiHeadAttention):
        scored = layer.num_heads * (layer.key_dim + layer.value_dim + _ELEMENTWISE)
    elif isinstance(layer, keras.layers.GroupQueryAttention):
        scored = layer.num_query_heads * (2 * layer.head_dim + _ELEMENTWISE)
    elif isinstance(layer, keras.layers.Attention):
        scored = 2 * (step.inputs[0].shape[-1] or 1) + _ELEMENTWISE
    return kernels * places + scored * places * sources


def _is_factor(weight: Any) -> bool:
    # Factors of an adapter are multiplied with each other, once per batch.
    return bool(weight.name.startswith("lora_"))


def _einsum(layer: keras.layers.EinsumDense) -> int:
    """Returns the multiplications per number put out: over the kernel's axes that it lacks."""
    _, kernel, output = re.split(",|->", layer.equation)
    named = zip(kernel, layer.kernel.shape, strict=True)
    return math.prod(size for name, size in named if name not in output)


def _width(layer: keras.layers.Layer) -> int:
    """Returns how many numbers a layer with weights puts out for a place; 0 if it has none."""
    if getattr(layer, "bias", None) is not None:
        return math.prod(layer.bias.shape)
    return max((w.shape[-1] for own in own_variables(layer) for w in own if w.shape), default=0)


def _sizes(tensors: Iterable[Tensor], length: int) -> list[list[int]]:
    return [[length if n is None else n for n in x.shape[1:]] for x in tensors]


def _places(sizes: Sequence[Sequence[int]]) -> int:
    return max((math.prod(x[:-1]) for x in sizes if x), default=1)
