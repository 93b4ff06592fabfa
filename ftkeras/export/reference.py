"""What an export is compared with: the original model's own outputs, in NumPy.

Nothing that the exported graph is made of is used here, so that a fault in it cannot hide.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def outputs_on_cpu(model: keras.Model, images: tf.Tensor) -> Any:
    """Returns what a model says, layer by layer, as float32 arrays.

    On the CPU, so that an accelerator's rounding or a full memory does not decide.

    Args:
        model: The model.
        images: Float32 (n, size, size, 3), 0..255.
    """
    with tf.device("CPU:0"):
        outputs = model(images, training=False)
    return tf.nest.map_structure(lambda output: output.numpy().astype(np.float32), outputs)
