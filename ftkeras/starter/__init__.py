"""A small real backbone and a small real data set, so that a first run needs no download.

PROVENANCE, in this folder, says where the files come from and under which licences.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ftkeras.errors import UserError

if TYPE_CHECKING:
    import keras

STARTER = "starter"
"""The name of the shipped weights, as `backbone.weights`."""
ARCHITECTURE, SIDE = "MobileNetV2", 160
"""The backbone for images whose weights are shipped, and the side in pixels that suits them."""
_FOLDER = Path(__file__).parent
_WEIGHTS = _FOLDER / "mobilenet_v2_160_notop_float16.npz"


def archive_path(name: str = "fashion_mnist.zip") -> Path:
    """Returns a zip of examples, by the name that `Input.starter` gives.

    `fashion_mnist.zip`: Fashion-MNIST, `train|test/CLASS/NNNN.png`, 28 x 28, grey; 200 training and
    100 test images of each of 10 classes. `glosses.zip`: see `ftkeras.starter.text.glosses_path`.
    """
    return _FOLDER / name


def not_for(name: str) -> UserError:
    """Returns the error about a model that the shipped weights do not fit."""
    return UserError(
        f"backbone.weights: 'starter' fits only MobileNetV2 (alpha 1.0, no top), and {name!r} has "
        "other layers. Set backbone.name to MobileNetV2, or choose other weights."
    )


def load_weights_into(model: keras.Model) -> None:
    """Sets the weights of a MobileNetV2 to the shipped ones.

    Args:
        model: `keras.applications.MobileNetV2` with `alpha=1.0` and `include_top=False`, of any
            input size; with or without pooling.

    Raises:
        UserError: If the model is of another architecture. Nothing is changed then.

    Example:
        >>> model = keras.applications.MobileNetV2(weights=None, include_top=False)
        >>> load_weights_into(model)
    """
    variables = {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.variables
    }
    with np.load(_WEIGHTS, allow_pickle=False) as file:
        values = {name: file[name] for name in file.files}
    expected = {name: value.shape for name, value in values.items()}
    if {name: tuple(variable.shape) for name, variable in variables.items()} != expected:
        raise not_for(model.name)
    for name, value in values.items():
        variables[name].assign(value.astype(np.float32))
