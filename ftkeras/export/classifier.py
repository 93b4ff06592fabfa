"""What is exported: a model, and all that its answers need to mean something."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import counted
from ftkeras.errors import UserError
from ftkeras.inputs.base import Input
from ftkeras.inputs.registry import make_input
from ftkeras.keras_internals import maker, with_constants
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.base import Output, Reading
from ftkeras.outputs.ending import Ending
from ftkeras.outputs.kinds import SOURCE
from ftkeras.outputs.one_of import OneOf
from ftkeras.version import __version__

_MOST_BYTES = (1 << 31) - 1  # of a graph that holds its weights
_ONE_UNIT = (
    " One unit tells two classes apart, and takes both names; with multi_label=True it is one "
    "label, and takes one."
)


Outputs = dict[str, tf.Tensor]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Served:
    """A trained model with what its outputs mean.

    Args:
        model: Takes the inputs of the kind (of images RGB float32 (n, size, size, 3), 0..255),
            returns (n, units), or a dict of them by output: logits, scores of a softmax or sigmoid
            (which are served as they are; see `ending_of`), or numbers.
        outputs: What the model answers, by name.
        resize: How images become square: crop, pad or squash.
        temperatures: By output, what the logits are divided by (Guo et al. 2017); 1 if left out.
            Those of a softmax p are log(p), those of a sigmoid log(p / (1 - p)).
        kind: What an example is; left out, an image, which `resize` is about.

    Raises:
        UserError: Something does not fit the model, or it gives neither logits nor scores.

    Example:
        ```python
        served = Served(model, {"kind": OneOf(("bag", "shoe")), "age": Number(40.0, 12.0)})
        export_saved_model(served, "export")
        ```
    """

    model: keras.Model
    outputs: Mapping[str, Output]
    resize: str = "crop"
    temperatures: Mapping[str, float] = field(default_factory=dict)
    kind: Input | None = None

    def __post_init__(self) -> None:
        try:
            self.input  # noqa: B018 - made here, so that what is wrong with it shows at once
        except UserError as error:
            raise UserError(f"export: {error}") from None
        for name, output in self.outputs.items():
            ending, named = self.readings[name], len(output.class_names)
            if isinstance(ending, Ending) and ending.classes != named:
                who = "the model" if self.is_alone else f"the output {name!r}"
                has = counted(ending.classes, "class", "classes")
                raise UserError(
                    f"export: {who} has {has}, but the data name {named}."
                    f"{_ONE_UNIT if ending.units == 1 else ''}"
                )
            if not self.temperature_of(name) > 0:
                raise UserError(
                    f"export: the temperature is {self.temperature_of(name)}; it must be above 0."
                )

    @property
    def is_alone(self) -> bool:
        """Whether there is only one output."""
        return len(self.outputs) == 1

    @functools.cached_property
    def input(self) -> Input:
        """What an example is."""
        return self.kind or make_input(settings={"resize": self.resize}, model=self.model)

    @functools.cached_property
    def readings(self) -> dict[str, Reading]:
        """How to read what the model returns for each output."""
        return {name: output.reading(self.model, name) for name, output in self.outputs.items()}

    @functools.cached_property
    def network(self) -> keras.Model:
        """The model as one that returns its outputs and, if it has a head, pooled features."""
        return with_features(self.model)

    def run(self, *inputs: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Returns the network's outputs, and its pooled features in float32 if it has any.

        Args:
            inputs: What the model takes, in the order in which the kind names it.
        """
        tree = dict(zip(self.input.takes, inputs, strict=True)) if len(inputs) > 1 else inputs[0]
        said = keras.tree.flatten(self.network(tree, training=False))
        features = [tf.cast(said.pop(), tf.float32)] if self.has_features else []
        return said, features

    @functools.cached_property
    def traced(self) -> Any:
        """`run` as one graph for batches of any size, which all that is exported calls."""
        run = tf.function(self.run, autograph=False)
        return run.get_concrete_function(*prepared_specs(self.input))

    @property
    def has_features(self) -> bool:
        """Whether the model's pooled features are known."""
        return len(self.network.outputs) > len(self.model.outputs)

    def temperature_of(self, name: str) -> float:
        """Returns what the logits of an output are divided by."""
        return float(self.temperatures.get(name, 1.0))

    def answers(self, said: Sequence[tf.Tensor]) -> Outputs:
        """Returns what clients get, from the network's outputs without the features."""
        # Keras puts the outputs of a dict in the order of their names.
        by_name = dict(zip(sorted(self.outputs), said, strict=True))
        return {
            f"{self._prefix(name)}{what}": values
            for name in by_name
            for what, values in self.outputs[name].served(self._scores(name, by_name)).items()
        }

    def expected(self, inputs: Any) -> dict[str, np.ndarray]:
        """Returns by output the scores (n, classes) or values (n,), by the Keras model itself.

        Args:
            inputs: What the model takes, (n, ...): a tensor, or several by name.
        """
        said = outputs_on_cpu(self.model, inputs)
        by_name = said if isinstance(said, dict) else dict.fromkeys(self.outputs, said)
        return {
            name: reading.expected(by_name[name], self.temperature_of(name))
            for name, reading in self.readings.items()
        }

    def difference(self, expected: Mapping[str, np.ndarray], said: Arrays) -> tuple[float, str]:
        """Returns how far a signature's answers are from those expected, and what else is wrong.

        Args:
            expected: What `expected` returned, for as many examples.
            said: The signature's outputs.
        """
        worst, faults = 0.0, []
        for name, output in self.outputs.items():
            start = self._prefix(name)
            own = {k.removeprefix(start): v for k, v in said.items() if k.startswith(start)}
            off, fault = output.difference(expected[name], own)
            worst = max(worst, off) if off == off else off  # NaN stays
            of = "" if self.is_alone else f" of the output {name!r}"
            faults += [f"{fault}{of}"] if fault else []
        return worst, "; ".join(faults)

    @functools.cached_property
    def frozen(self) -> Any:
        """The function from the inputs to the only output's scores, its weights constants.

        It is what converters take.

        Raises:
            UserError: The model is too large for one graph.
        """
        size = sum(np.prod(v.shape) * tf.as_dtype(v.dtype).size for v in self.model.weights)
        if size > _MOST_BYTES:
            raise UserError(
                f"export: the weights take {size / 2**30:.1f} GiB, and a file of the other "
                "formats holds 2. Export a SavedModel."
            )
        [spec] = self.input.takes.values()
        given = tf.TensorSpec((None, *spec.shape), spec.dtype, self.input.wire.prepared)
        [name] = self.outputs

        @tf.function(autograph=False, input_signature=[given])
        def answer(inputs: tf.Tensor) -> tf.Tensor:
            [said] = self.traced(inputs)[0]
            return tf.identity(self._scores(name, {name: said}), "scores")

        with tf.device("CPU:0"):
            return with_constants(answer.get_concrete_function())

    def card(self) -> dict[str, Any]:
        """Returns what a person or a client may want to know, ready for JSON."""
        rest = {**self.input.facts, "needs": list(self.input.serving_packages)}
        only = next(iter(self.outputs.values()))
        if not self.is_alone or only.is_named:
            cards = {
                name: {"kind": output.kind, **output.card(self.temperature_of(name))}
                for name, output in self.outputs.items()
            }
            return {"heads": cards, **rest, "versions": versions()}
        thresholds = only.thresholds if isinstance(only, AnyOf) else None
        return {
            "class_names": list(only.class_names),
            **rest,
            "multi_label": isinstance(only, AnyOf),
            "temperature": self.temperature_of(next(iter(self.outputs))),
            "thresholds": None if thresholds is None else list(thresholds),
            "versions": versions(),
        }

    def _scores(self, name: str, said: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return self.readings[name].scores(said[name], self.temperature_of(name))

    def _prefix(self, name: str) -> str:
        return "" if self.is_alone and not self.outputs[name].is_named else f"{name}_"


class Classifier(Served):
    """A trained model of one output with its labels, temperature and thresholds.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns (n, units): logits, or
            scores of a softmax or sigmoid, which are served as they are. See `ending_of`.
        class_names: One name per class. If the model has one unit, two names: what a score near 0
            means, then what a score near 1 means.
        resize: How images become square: crop, pad or squash.
        multi_label: An image may have any number of labels: logits become sigmoids, not a softmax.
        temperature: What the logits are divided by; see `Served`.
        thresholds: For `multi_label`: the score from which on a class counts as predicted, one per
            class; 0.5 each if left out.

    Raises:
        UserError: Something does not fit the model, or its outputs are neither logits nor scores.

    Example:
        ```python
        classifier = Classifier(model, class_names=["cat", "dog"])
        export_saved_model(classifier, "export")
        ```
    """

    def __init__(
        self,
        model: keras.Model,
        class_names: Sequence[str],
        resize: str = "crop",
        multi_label: bool = False,
        temperature: float = 1.0,
        thresholds: Sequence[float] | None = None,
    ):
        names = tuple(class_names)
        labels = AnyOf(names, thresholds)  # which checks the thresholds
        output = labels if multi_label else OneOf(names)
        super().__init__(model, {SOURCE: output}, resize, {SOURCE: temperature})


def versions() -> dict[str, str]:
    """Returns what an export was made with."""
    return {
        "ftkeras": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }


def prepared_specs(kind: Input, batch: int | None = None) -> list[tf.TensorSpec]:
    """Returns what the signature `images`, or `inputs`, takes: batches of the model's inputs."""
    takes = dict(kind.takes)
    names = list(takes) if len(takes) > 1 else [kind.wire.prepared]
    return [
        tf.TensorSpec((batch, *spec.shape), spec.dtype, name)
        for name, spec in zip(names, takes.values(), strict=True)
    ]


def outputs_on_cpu(model: keras.Model, inputs: Any) -> Any:
    """Returns a model's outputs, layer by layer, in float32: what an export is compared with.

    On the CPU, so that an accelerator's rounding or a full memory does not decide.

    Args:
        model: The model.
        inputs: What it takes, (n, ...): a tensor, or several by name.
    """
    with tf.device("CPU:0"):
        outputs = model(inputs, training=False)
    return tf.nest.map_structure(lambda output: output.numpy().astype(np.float32), outputs)


def with_features(model: keras.Model) -> keras.Model:
    """Returns a model as one with a flat list of outputs, of which the last is pooled features.

    If the model has no head that shows them, they are not among the outputs.
    """
    features = pooled_features(model)
    inputs = model.input if len(model.inputs) > 1 else model.inputs[0]
    return keras.Model(inputs, [*model.outputs, *([] if features is None else [features])])


def pooled_features(model: keras.Model) -> keras.KerasTensor | None:
    """Returns the tensor between pooling and the rest of the head, (batch, channels).

    Heads are recognised by the names that `attach_head` gives: a backbone that pools by itself has
    no `head_pool`, and its output is what the head's first layer takes.

    Returns:
        None if the model has no such head.
    """
    layers = {layer.name: layer for layer in model.layers}
    if "head_pool" in layers:
        return layers["head_pool"].output
    features, layer = None, layers.get("logits")
    while layer is not None and (layer.name == "logits" or layer.name.startswith("head_")):
        features = layer.input
        layer = maker(features)
    return features if features is not None and len(features.shape) == 2 else None
