"""Signatures, and all that they use, as one SavedModel; each is traced once.

Keras's `ExportArchive` looks at each attribute of a model that it tracks. Among them is a signature
of its own, for which it traces the whole model. It also traces each signature twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

Signature = Callable[..., dict[str, tf.Tensor]]


class Archive:
    """Collects signatures and writes them.

    Args:
        model: The model whose variables and tables they use.
        resources: More that they use and that may hold tables, such as a tokenizer.

    Example:
        >>> archive = Archive(model)
        >>> pixels = tf.TensorSpec((None, 8, 8, 3), tf.float32, "images")
        >>> archive.add_endpoint("images", lambda images: {"scores": model(images)}, [pixels])
        >>> archive.write_out("export/1")
    """

    def __init__(self, model: keras.Model, resources: Sequence[Any] = ()):
        roots = (model, *resources)
        inside = [x for root in roots for x in tf.train.TrackableView(root).descendants()]
        tables = [x for x in inside if isinstance(x, tf.saved_model.experimental.TrackableResource)]
        variables = [variable.value for variable in model.variables]
        self._root = tf.train.Checkpoint(variables=variables, resources=tables)
        self._signatures: dict[str, Any] = {}

    def add_endpoint(self, name: str, function: Signature, inputs: Sequence[tf.TensorSpec]) -> None:
        """Traces a signature.

        Args:
            name: Its name.
            function: Takes tensors, and returns a dict of them by name.
            inputs: What it takes; the names are those of its arguments.
        """
        traced = tf.function(function, input_signature=inputs, autograph=False)
        self._signatures[name] = traced.get_concrete_function()

    def write_out(self, folder: str) -> None:
        """Writes the SavedModel."""
        tf.saved_model.save(self._root, folder, signatures=self._signatures)
