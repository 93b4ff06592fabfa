"""What is exported: a model, and all that its answers need to mean something."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError, did_you_mean
from ftkeras.export.reference import expected_scores, outputs_on_cpu
from ftkeras.inputs.image.decode import MODES
from ftkeras.keras_internals import maker, with_constants
from ftkeras.model.output import Output, output_of
from ftkeras.version import __version__

_MOST_BYTES = (1 << 31) - 1  # of a graph that holds its weights
_ONE_UNIT = (
    " One unit tells two classes apart, and takes both names; with multi_label=True it is one "
    "label, and takes one."
)


Outputs = dict[str, tf.Tensor]
Arrays = Mapping[str, np.ndarray]


class Servable(Protocol):
    """A model with all that a SavedModel's signatures and its certificate ask of it."""

    @property
    def resize(self) -> str:
        """How images become square: crop, pad or squash."""

    @property
    def model(self) -> keras.Model:
        """Takes raw 0..255 RGB float32 (n, size, size, 3)."""

    @property
    def image_size(self) -> int:
        """Side of the model's input, in pixels."""

    @property
    def has_features(self) -> bool:
        """Whether the model's pooled features are known."""

    @property
    def network(self) -> keras.Model:
        """The model as one that puts out its answers and, where known, pooled features."""

    def answers(self, said: Sequence[tf.Tensor]) -> Outputs:
        """Returns what clients get, from the network's outputs without the features."""

    def expected(self, images: tf.Tensor) -> Any:
        """Returns what clients should get, from the Keras model's own outputs, in NumPy."""

    def difference(self, expected: Any, said: Arrays) -> tuple[float, str]:
        """Returns how far a signature's answers are from those expected, and what is wrong else.

        Args:
            expected: What `expected` said, for as many images.
            said: The signature's outputs.
        """

    def card(self) -> dict[str, Any]:
        """Returns what a person or a client may want to know, ready for JSON."""


@dataclass(frozen=True)
class Classifier:
    """A trained model with its labels, temperature and thresholds.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns (n, units): logits, or
            scores of a softmax or sigmoid, which are served as they are. See `output_of`.
        class_names: One name per class. If the model has one unit, two names: what a score near 0
            means, then what a score near 1 means.
        resize: How images become square: crop, pad or squash.
        multi_label: An image may have any number of labels: logits become sigmoids, not a softmax.
        temperature: What the logits are divided by (Guo et al. 2017). Those of a softmax p are
            log(p), those of a sigmoid log(p / (1 - p)).
        thresholds: For `multi_label`: the score from which on a class counts as predicted, one a
            class; 0.5 each when left out.

    Raises:
        UserError: Something does not fit the model, or its outputs are neither logits nor scores.

    Example:
        ```python
        classifier = Classifier(model, class_names=["cat", "dog"])
        export_saved_model(classifier, "export")
        ```
    """

    model: keras.Model
    class_names: Sequence[str]
    resize: str = "crop"
    multi_label: bool = False
    temperature: float = 1.0
    thresholds: Sequence[float] | None = None

    def __post_init__(self) -> None:
        classes = self.output.classes
        if len(self.class_names) != classes:
            raise UserError(
                f"export: the model has {classes} classes, and there are {len(self.class_names)} "
                f"class names.{_ONE_UNIT if self.output.units == 1 else ''}"
            )
        if self.resize not in MODES:
            guess = did_you_mean(self.resize, MODES)
            raise UserError(f"export: resize is one of {', '.join(MODES)}.{guess}")
        if not self.temperature > 0:
            raise UserError(f"export: the temperature is {self.temperature}; it must be above 0.")
        if self.thresholds is not None and len(self.thresholds) != classes:
            raise UserError(
                f"export: there are {len(self.thresholds)} thresholds for {classes} classes."
            )

    @property
    def image_size(self) -> int:
        """Side of the model's input, in pixels."""
        return int(self.model.input_shape[1])

    @functools.cached_property
    def output(self) -> Output:
        """What the model's outputs are."""
        return output_of(self.model, self.multi_label)

    @functools.cached_property
    def network(self) -> keras.Model:
        """The model as one that returns its outputs and, if it has a head, pooled features."""
        return with_features(self.model)

    @property
    def has_features(self) -> bool:
        """Whether the model's pooled features are known."""
        return len(self.network.outputs) > len(self.model.outputs)

    def scores(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns float32 scores (n, classes), in the order of the classes."""
        return self.output.scores(outputs, self.temperature)

    def answers(self, said: Sequence[tf.Tensor]) -> Outputs:
        """Returns what clients get, from the model's outputs."""
        return ranked(self, self.scores(said[0]))

    def difference(self, expected: np.ndarray, said: Arrays) -> tuple[float, str]:
        """Returns the largest difference of scores, and what else is wrong."""
        return ranked_difference(self.class_names, expected, said)

    def expected(self, images: tf.Tensor) -> np.ndarray:
        """Returns the scores (n, classes), in the order of the classes, by the Keras model itself.

        Args:
            images: Float32 (n, size, size, 3), 0..255.
        """
        return expected_scores(outputs_on_cpu(self.model, images), self.output, self.temperature)

    @functools.cached_property
    def frozen(self) -> Any:
        """The function from images to scores, its weights constants: what converters take.

        Raises:
            UserError: The model is too large for one graph.
        """
        size = sum(np.prod(v.shape) * tf.as_dtype(v.dtype).size for v in self.model.weights)
        if size > _MOST_BYTES:
            raise UserError(
                f"export: the weights take {size / 2**30:.1f} GiB, and a file of the other "
                "formats holds 2. Export a SavedModel."
            )
        images = tf.TensorSpec((None, *self.model.input_shape[1:]), tf.float32, "images")

        @tf.function(autograph=False, input_signature=[images])
        def answer(images: tf.Tensor) -> tf.Tensor:
            return tf.identity(self.scores(self.model(images, training=False)), "scores")

        with tf.device("CPU:0"):
            return with_constants(answer.get_concrete_function())

    def card(self) -> dict[str, Any]:
        """Returns what a person or a client may want to know, ready for JSON."""
        return {
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            "resize": self.resize,
            "multi_label": self.multi_label,
            "temperature": self.temperature,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Returns what an export was made with."""
    return {
        "ftkeras": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }


class Ranks(Protocol):
    """What gives scores a meaning."""

    @property
    def class_names(self) -> Sequence[str]:
        """One name a class."""

    @property
    def multi_label(self) -> bool:
        """Whether each class is a question of its own."""

    @property
    def thresholds(self) -> Sequence[float] | None:
        """Of a multi-label model: the score from which on a class counts as predicted."""


def ranked(classes: Ranks, scores: tf.Tensor) -> Outputs:
    """Returns scores (n, classes), in the order of the classes, as clients get them."""
    best = tf.math.top_k(scores, k=len(classes.class_names))
    outputs = {
        "scores": best.values,
        "class_indices": best.indices,
        "class_names": tf.gather(tf.constant(list(classes.class_names)), best.indices),
    }
    if classes.multi_label:
        thresholds = classes.thresholds or [0.5] * len(classes.class_names)
        needed = tf.gather(tf.constant(list(thresholds), tf.float32), best.indices)
        outputs["predicted"] = best.values >= needed
    return outputs


def ranked_difference(
    class_names: Sequence[str], expected: np.ndarray, said: Arrays
) -> tuple[float, str]:
    """Returns the largest difference of what `ranked` gave from scores, and what else is wrong.

    Args:
        class_names: One name a class.
        expected: Scores (n, classes), in the order of the classes.
        said: The outputs of `ranked`, for the same images.
    """
    indices = said["class_indices"]  # (n, classes)
    difference = float(np.abs(said["scores"] - np.take_along_axis(expected, indices, 1)).max())
    names = np.array(class_names)[indices]
    same = np.array_equal(said.get("class_names", names), names)
    return difference, "" if same else "gives other class names"


def with_features(model: keras.Model) -> keras.Model:
    """Returns a model as one with a flat list of outputs, of which the last is pooled features.

    Where the model has no head that tells them, they are not among the outputs.
    """
    features = pooled_features(model)
    return keras.Model(model.inputs[0], [*model.outputs, *([] if features is None else [features])])


def pooled_features(model: keras.Model) -> keras.KerasTensor | None:
    """Returns the tensor between pooling and the rest of the head, (batch, channels).

    Heads are recognised by the names that `attach_head` gives: a backbone that pools by itself has
    no `head_pool`, and its output is what the head's first layer takes.

    Returns:
        None where the model has no such head.
    """
    layers = {layer.name: layer for layer in model.layers}
    if "head_pool" in layers:
        return layers["head_pool"].output
    features, layer = None, layers.get("logits")
    while layer is not None and (layer.name == "logits" or layer.name.startswith("head_")):
        features = layer.input
        layer = maker(features)
    return features if features is not None and len(features.shape) == 2 else None
