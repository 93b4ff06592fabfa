"""The classes `Backbone` and `Block`. Importing this imports no TensorFlow and no Keras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftkeras.errors import UserError

if TYPE_CHECKING:
    import keras


Gives = Literal["map", "sequence", "vector"]

_BY_RANK: dict[int, Gives] = {4: "map", 3: "sequence", 2: "vector"}


@dataclass(frozen=True)
class Block:
    """One unit of a backbone, as in "the last two blocks".

    Args:
        name: The block's name, unique in its backbone, for example `conv5_block3`.
        layers: Every layer of the block that has weights, in graph order. They include the layers
            of a nested model, never the model itself.
    """

    name: str
    layers: tuple[keras.layers.Layer, ...]


@dataclass(frozen=True)
class Backbone:
    """A model without its top, and the facts for using it.

    Args:
        name: The catalog's name, or the path of a `.keras` file.
        model: From (batch, size, size, 3) float32 images, preprocessed, or from several tensors by
            name, to one tensor of features.
        preprocessing: The kind of preprocessing that raw 0..255 RGB needs first.
        natural_size: For images, the side in pixels that the weights were trained at; otherwise 0.
        smallest_size: For images, the smallest side in pixels that the architecture can take.
        blocks: From input to output; together they hold each weighted layer exactly once.
        front: For a sequence, how many steps come before those of the example's parts. The first
            is a class token, which represents the whole example.
    """

    name: str
    model: keras.Model
    preprocessing: str
    natural_size: int
    smallest_size: int
    blocks: tuple[Block, ...]
    front: int = 0

    @property
    def gives(self) -> Gives:
        """The kind of features (map, sequence or vector), which decides how the head can pool them.

        Raises:
            UserError: The model's output is of another kind.
        """
        return gives_of(getattr(self.model.output, "shape", ()))


def gives_of(shape: Sequence[int | None]) -> Gives:
    """Returns the kind of features of a shape: map, sequence or vector.

    Args:
        shape: (batch, height, width, channels), (batch, steps, channels) or (batch, channels).

    Raises:
        UserError: Any other shape.
    """
    if len(shape) not in _BY_RANK:
        raise UserError(
            f"backbone: it gives {tuple(shape)}; a head takes a map (batch, height, width, "
            "channels), a sequence (batch, steps, channels) or a vector (batch, channels)."
        )
    return _BY_RANK[len(shape)]
