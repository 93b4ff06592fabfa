"""A classifier in OpenVINO: a second opinion on an export, and a format of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ftkeras.export.classifier import Served
from ftkeras.trunk.engines import openvino_core


def openvino_model(classifier: Served) -> Any:
    """Returns the classifier as an `openvino.Model` from what the model takes to scores."""
    with tempfile.TemporaryDirectory() as scratch:
        # From a file it is read by OpenVINO itself, ten times as fast as from Python's objects.
        file = Path(scratch, "frozen.pb")
        file.write_bytes(classifier.frozen.graph.as_graph_def().SerializeToString())
        model = openvino_core().read_model(file)
    model.inputs[0].get_tensor().set_names({classifier.input.wire.prepared})
    model.outputs[0].get_tensor().set_names({"scores"})
    return model


def run_openvino(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from inputs float32 (n, ...) to scores (n, classes), on the CPU.

    Args:
        model: An `openvino.Model`, or the path of an .xml file.
    """
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(model, "CPU", exact)
    return lambda inputs: np.array(compiled(inputs)[0])


def openvino_answer(classifier: Served) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the classifier as OpenVINO runs it."""
    return run_openvino(openvino_model(classifier))
