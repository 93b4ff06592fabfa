"""What is exported of a model with several heads: each answers beside the others."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Head
from ftkeras.errors import UserError
from ftkeras.export.classifier import (
    Arrays,
    Outputs,
    ranked,
    ranked_difference,
    versions,
    with_features,
)
from ftkeras.export.reference import expected_scores, outputs_on_cpu
from ftkeras.model.output import Output
from ftkeras.tasks.multi_task.evaluation import in_units, outputs_of


@dataclass(frozen=True)
class _Classes:
    """The classes or labels of one head, as `ranked` takes them."""

    class_names: Sequence[str]
    multi_label: bool
    thresholds: Sequence[float] | None = None


@dataclass(frozen=True)
class MultiHead:
    """A trained model of several heads with what their outputs mean.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns a dict of (n, units):
            logits, scores, or numbers.
        heads: What each output means.
        resize: How images become square: crop, pad or squash.
        temperatures: By head, what the logits are divided by; 1 where left out.

    Raises:
        UserError: An output for classes is neither logits nor scores.

    Example:
        ```python
        served = MultiHead(model, [Head("kind", "classes", ("bag", "shoe")), Head("age", "number")])
        export_saved_model(served, "export")
        ```
    """

    model: keras.Model
    heads: Sequence[Head]
    resize: str = "crop"
    temperatures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, output in self.outputs.items():
            [head] = [head for head in self.heads if head.name == name]
            if output.classes != len(head.class_names):
                raise UserError(
                    f"export: the output {name!r} has {output.classes} classes, and there are "
                    f"{len(head.class_names)} class names."
                )

    @functools.cached_property
    def outputs(self) -> dict[str, Output]:
        """What the outputs are, by head, except those for numbers."""
        return outputs_of(self.model, self.heads)

    @property
    def image_size(self) -> int:
        """Side of the model's input, in pixels."""
        return int(self.model.input_shape[1])

    @functools.cached_property
    def network(self) -> keras.Model:
        """The model as one that puts out each head's answer and, where known, pooled features."""
        return with_features(self.model)

    @property
    def has_features(self) -> bool:
        """Whether the model's pooled features are known."""
        return len(self.network.outputs) > len(self.model.outputs)

    def answers(self, said: Sequence[tf.Tensor]) -> Outputs:
        """Returns what clients get: of each head what a classifier says, or a value (n,)."""
        outputs: Outputs = {}
        for head, output in zip(self._in_order(), said, strict=True):
            if head.kind == "number":
                value = tf.cast(output, tf.float32)[:, 0]
                outputs[f"{head.name}_value"] = value * head.scale + head.mean
                continue
            scores = self.outputs[head.name].scores(output, self.temperatures.get(head.name, 1.0))
            answer = ranked(_Classes(head.class_names, head.kind == "labels"), scores)
            outputs |= {f"{head.name}_{name}": values for name, values in answer.items()}
        return outputs

    def expected(self, images: tf.Tensor) -> dict[str, np.ndarray]:
        """Returns by head the scores (n, classes) or values (n,), by the Keras model itself."""
        said = outputs_on_cpu(self.model, images)
        return {
            head.name: in_units(head, said[head.name])[:, 0]
            if head.kind == "number"
            else expected_scores(
                said[head.name],
                self.outputs[head.name],
                self.temperatures.get(head.name, 1.0),
            )
            for head in self.heads
        }

    def difference(self, expected: Mapping[str, np.ndarray], said: Arrays) -> tuple[float, str]:
        """Returns the largest difference over all heads, and what else is wrong.

        Numbers are compared in units of their spread in training, or of themselves where they are
        larger: what a float32 can tell apart.
        """
        worst, faults = 0.0, []
        for head in self.heads:
            wanted = expected[head.name]
            if head.kind == "number":
                off = np.abs(said[f"{head.name}_value"] - wanted)
                difference, fault = float((off / np.maximum(head.scale, np.abs(wanted))).max()), ""
            else:
                start = f"{head.name}_"
                own = {k[len(start) :]: v for k, v in said.items() if k.startswith(start)}
                difference, fault = ranked_difference(head.class_names, wanted, own)
            worst = max(worst, difference) if difference == difference else difference  # NaN stays
            faults += [f"{fault} of the head {head.name!r}"] if fault else []
        return worst, "; ".join(faults)

    def card(self) -> dict[str, Any]:
        """Returns what a person or a client may want to know, ready for JSON."""
        return {
            "heads": {
                head.name: {
                    "kind": head.kind,
                    **(
                        {"mean": head.mean, "scale": head.scale}
                        if head.kind == "number"
                        else {
                            "class_names": list(head.class_names),
                            "temperature": self.temperatures.get(head.name, 1.0),
                        }
                    ),
                }
                for head in self.heads
            },
            "image_size": self.image_size,
            "resize": self.resize,
            "versions": versions(),
        }

    def _in_order(self) -> list[Head]:
        """Returns the heads in the order of the network's outputs."""
        by_name = {head.name: head for head in self.heads}
        return [by_name[name] for name in keras.tree.flatten({name: name for name in by_name})]
