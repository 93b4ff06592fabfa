"""What a backbone is. Importing this costs nothing: no TensorFlow, no Keras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Block:
    """One unit of a backbone, as people count them: "the last two blocks".

    Args:
        name: The block's name, unique in its backbone, for example `conv5_block3`.
        layers: Every layer of the block that holds weights, in graph order. A nested model is
            opened: its layers stand here, never the model itself.
    """

    name: str
    layers: tuple[keras.layers.Layer, ...]


@dataclass(frozen=True)
class Backbone:
    """A model without its top, and what one must know to use it.

    Args:
        name: The catalog's name, or the path of a `.keras` file.
        model: From (batch, size, size, 3) float32 images, preprocessed, to one feature map
            (batch, height, width, channels).
        preprocessing: What `ftkeras.backbones.preprocess` has to do to raw 0..255 RGB first.
        natural_size: The side, in pixels, that the weights were trained at.
        smallest_size: The smallest side, in pixels, that the architecture can take.
        blocks: From input to output; together they hold each weighted layer exactly once.
    """

    name: str
    model: keras.Model
    preprocessing: str
    natural_size: int
    smallest_size: int
    blocks: tuple[Block, ...]
