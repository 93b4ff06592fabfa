"""Which tensors of a graph carry a Keras mask.

Keras attaches a mask to a tensor, and every layer that gets the tensor gets the mask. Storing the
tensor would lose it. So the trunk returns the masks that its tail needs, and the tail attaches them
again.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import keras
import tensorflow as tf

from ftkeras.graph import Graph, ReadMask, Step, Tensor
from ftkeras.keras_internals import clear_losses, flat_layers, is_built_in


@dataclass(frozen=True)
class Masks:
    """The Keras masks of a graph.

    Args:
        of: By masked tensor, its mask: one of the graph's tensors, or the output of a reader.
        readers: By masked tensor, the step that returns its mask, if no other step does.
        seen: The inputs of steps that carry a mask when the step is called; None instead of the
            step for the graph's own outputs. A layer may remove the mask from its input for all
            later steps, as multi-head attention does.
    """

    of: dict[Tensor, Tensor] = field(default_factory=dict)
    readers: dict[Tensor, Step] = field(default_factory=dict)
    seen: set[tuple[Step | None, Tensor]] = field(default_factory=set)

    def with_readers(self, steps: Iterable[Step]) -> Iterator[Step]:
        """Yields the steps, and behind each the readers of the masks that it made."""
        for step in steps:
            yield step
            yield from (self.readers[x] for x in step.outputs if x in self.readers)


_FOUND: weakref.WeakKeyDictionary[Graph, Masks] = weakref.WeakKeyDictionary()


def find_masks(graph: Graph) -> Masks:
    """Returns the masks of a graph; several splits of one graph share them.

    TensorFlow traces the graph once to find them, if a layer in it may make any.
    """
    if graph not in _FOUND:
        parts = (part for layer in graph.layers for part in flat_layers(layer))
        _FOUND[graph] = _trace(graph) if any(map(_may_mask, parts)) else Masks()
    return _FOUND[graph]


def _may_mask(layer: keras.layers.Layer) -> bool:
    """Whether a layer may give a mask to what had none; Keras's other layers only pass it on."""
    if is_built_in(layer):
        return isinstance(layer, keras.layers.Masking) or bool(getattr(layer, "mask_zero", False))
    return type(layer).compute_mask is not keras.layers.Layer.compute_mask


def _trace(graph: Graph) -> Masks:
    masks, read = Masks(), ReadMask()

    @tf.autograph.experimental.do_not_convert
    def run(*inputs: tf.Tensor) -> None:
        values = dict(zip(graph.inputs, inputs, strict=True))
        for step in graph.steps:
            masks.seen.update((step, x) for x in step.inputs if read(values[x]) is not None)
            # As in training: there dropout is no other name for the tensor that it was given.
            values.update(zip(step.outputs, step.call(values, training=True), strict=True))
            for x in step.outputs:
                mask = read(values[x])
                if mask is None:
                    continue
                same = (tensor for tensor, value in values.items() if value is mask)
                made = masks.of[x] = next(same, Tensor(tuple(mask.shape), mask.dtype.name))
                if made not in values:
                    masks.readers[x] = Step(read, (x,), {}, (made,))
        masks.seen.update((None, x) for x in graph.outputs if read(values[x]) is not None)

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in graph.inputs]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model itself warns of layers that lose a mask
            tf.function(run, autograph=False).get_concrete_function(*specs)
    finally:
        for layer in graph.layers:
            clear_losses(layer)
    return masks
