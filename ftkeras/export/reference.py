"""What an export is compared with: the original model's own outputs, in NumPy.

Nothing that the exported graph is made of is used here, so that a fault in it cannot hide.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.evaluation.metrics import scores_from_logits
from ftkeras.model.output import Output


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


def expected_scores(outputs: np.ndarray, output: Output, temperature: float) -> np.ndarray:
    """Returns the scores (n, classes) that the model's outputs mean.

    If they are scores and the temperature is 1, nothing is done to them.

    Args:
        outputs: What the model said, float32 (n, units).
        output: What the outputs are.
        temperature: What the logits are divided by.

    Raises:
        UserError: The outputs are taken for logits and are scores.
    """
    if output.kind == "logits":
        _check_logits(outputs)
        logits = np.asarray(outputs, np.float64)
    elif temperature == 1:
        return np.hstack([1 - outputs, outputs]) if output.classes > output.units else outputs
    else:
        logits = _logits(np.asarray(outputs, np.float64), output.kind == "sigmoid")
    independent = output.multi_label or output.kind == "sigmoid" or output.units == 1
    scores = scores_from_logits(logits / temperature, independent)
    return np.hstack([1 - scores, scores]) if output.classes > output.units else scores


def _logits(scores: np.ndarray, independent: bool) -> np.ndarray:
    """Returns float64 logits of scores that are kept within what float32 tells from 0 and 1."""
    below_one = np.nextafter(np.float32(1), np.float32(0))
    scores = np.clip(scores, np.finfo(np.float32).tiny, float(below_one))
    return np.log(scores) - np.log1p(-scores) if independent else np.log(scores)


def _check_logits(outputs: np.ndarray) -> None:
    """Refuses what add up to 1 for each image: an unknown layer's scores, not logits."""
    if outputs.shape[1] > 1 and (outputs >= 0).all() and np.allclose(outputs.sum(1), 1, atol=1e-3):
        raise UserError(
            "export: the model's outputs add up to 1 for each image, so they are scores, but the "
            "last layer says that they are logits. Set that layer's attribute `activation` to "
            "'softmax'."
        )
