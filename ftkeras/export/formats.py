"""A classifier in the formats of other runtimes, each with a certificate of its own.

All of them take `images`, float32 (n, size, size, 3), RGB 0..255, and return scores (n, classes) in
the order of the classes. Preprocessing, temperature, and softmax or sigmoid are inside.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from ftkeras.console import Progress, kept_back
from ftkeras.errors import TrainingError, UserError, first_line
from ftkeras.export.certificate import check_difference, tolerance_of
from ftkeras.export.classifier import Served
from ftkeras.export.fresh_process import BATCHES, median_seconds
from ftkeras.export.openvino_engine import openvino_model, run_openvino
from ftkeras.export.publish import new_version, size_of, write_json
from ftkeras.export.questions import questions_of
from ftkeras.export.signatures import decoded
from ftkeras.imports import to_install
from ftkeras.outputs.one_of import OneOf
from ftkeras.trunk.engines import import_openvino

Answer: TypeAlias = Callable[[np.ndarray], np.ndarray]

FLOAT16_TOLERANCE = 3e-2
"""The largest difference of two scores that weights of 16 bits explain."""
INT8_DROP = 0.05
"""How much accuracy 8 bits may cost; scores may differ by any amount."""
_ENOUGH = 100  # examples on which a drop in accuracy is more than chance
_OPSET = 17  # of ONNX
_BATCH = 32


@dataclass(frozen=True)
class Sample:
    """Examples to calibrate on or to measure accuracy with.

    Args:
        inputs: (n, ...), as a model takes them; of images uint8, as training resizes them.
        targets: (n, classes), one-hot or multi-hot.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, size: int) -> Iterable[np.ndarray]:
        """Yields float32 inputs (b, ...)."""
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size].astype(np.float32)


@dataclass(frozen=True)
class Written:
    """A model file: how to run it, and how far its scores may be from the model's.

    Args:
        answer: From inputs float32 (n, ...) to scores (n, classes), in the format's runtime.
        tolerance: None if only the accuracy must stay.
        files: The names of its files.
    """

    answer: Answer
    tolerance: float | None
    files: tuple[str, ...]


def check_formats(formats: Sequence[str]) -> None:
    """Refuses, before anything is done, a format whose packages are missing.

    Raises:
        UserError: Says what to install.
    """
    for name in formats:
        missing = [p for p in _PACKAGES[name] if importlib.util.find_spec(p) is None]
        if missing:
            raise UserError(
                f"export: the format {name} needs {' and '.join(missing)}: {to_install(name)}"
            )


def export_format(
    classifier: Served,
    directory: str | os.PathLike[str],
    name: str,
    *,
    calibration: Sample,
    test: Sample,
) -> str:
    """Writes a classifier in another runtime's format, after proving that it answers alike there.

    Args:
        classifier: The model, its labels, and how its answers are meant.
        directory: Where versions 1, 2, ... are; local or remote.
        name: litert (float16 and int8), onnx or openvino.
        calibration: Training examples, whose range of values int8 is fitted to.
        test: Examples on which the accuracy is measured.

    Returns:
        The version's folder: the model's files, `ftkeras.json` and `certificate.json`.

    Raises:
        UserError: A package is missing, or the directory cannot be written.
        TrainingError: The model cannot be converted, or the runtime answers differently.
    """
    check_formats([name])
    progress = Progress(f"export {name}", 2, "part")
    try:
        with new_version(directory) as (folder, target):
            try:
                with _quiet():
                    written = WRITERS[name](classifier, Path(folder), calibration)
            except UserError:
                raise
            except Exception as error:  # converters raise anything
                raise TrainingError(
                    f"export: {name} cannot take this model: {first_line(error)}"
                ) from error
            progress.advance(note="checking")
            with kept_back(2):  # a runtime reports itself when it first runs
                certificate = _certify(classifier, Path(folder), written, test)
            write_json(Path(folder, "ftkeras.json"), classifier.card())
            write_json(Path(folder, "certificate.json"), certificate)
            progress.advance()
    finally:
        progress.close()
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops warnings of converters about their own code: old functions, inputs left float32."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), kept_back(1, 2):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# ------------------------------------------------------------------------------- formats


def write_litert(classifier: Served, folder: Path, calibration: Sample) -> dict[str, Written]:
    """Writes float16 weights, and 8-bit weights and activations; both take and give float32."""

    def representative() -> Iterable[list[np.ndarray]]:
        return ([batch] for batch in calibration.batches(1))

    written = {}
    for precision in ("float16", "int8"):
        # A function of constants needs no object to hold its variables, which this is said to lack.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([classifier.frozen])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        else:
            converter.representative_dataset = representative
        file = folder / f"model_{precision}.tflite"
        file.write_bytes(converter.convert())
        tolerance = FLOAT16_TOLERANCE if precision == "float16" else None
        written[f"litert_{precision}"] = Written(_litert_answer(file), tolerance, (file.name,))
    return written


def _litert_answer(file: Path) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=os.fspath(file), num_threads=os.cpu_count())
    (input_info,), (said,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape: tuple[int, ...] = ()

    def answer(inputs: np.ndarray) -> np.ndarray:
        nonlocal shape
        if inputs.shape != shape:
            shape = inputs.shape
            interpreter.resize_tensor_input(input_info["index"], shape, strict=True)
            interpreter.allocate_tensors()
        interpreter.set_tensor(input_info["index"], inputs)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(said["index"]))

    return answer


def write_onnx(classifier: Served, folder: Path, calibration: Sample) -> dict[str, Written]:
    """Writes ONNX in float32, with a free batch size."""
    import onnxruntime
    import tf2onnx

    graph, given = classifier.frozen.graph.as_graph_def(), classifier.input.wire.prepared
    model, _ = tf2onnx.convert.from_graph_def(
        graph, input_names=[f"{given}:0"], output_names=["scores:0"], opset=_OPSET
    )
    for node in model.graph.node:  # "scores:0" is TensorFlow's way to write "scores"
        node.input[:] = [given if name == f"{given}:0" else name for name in node.input]
        node.output[:] = ["scores" if name == "scores:0" else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = given, "scores"
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def answer(inputs: np.ndarray) -> np.ndarray:
        return session.run(["scores"], {given: inputs})[0]

    return {"onnx": Written(answer, tolerance_of(classifier), (file.name,))}


def write_openvino(classifier: Served, folder: Path, calibration: Sample) -> dict[str, Written]:
    """Writes OpenVINO's IR in float32, with a free batch size."""
    file = folder / "model.xml"
    import_openvino().save_model(openvino_model(classifier), file, compress_to_fp16=False)
    answer, tolerance = run_openvino(file), tolerance_of(classifier)
    return {"openvino": Written(answer, tolerance, (file.name, "model.bin"))}


WRITERS: dict[str, Callable[[Served, Path, Sample], dict[str, Written]]] = {
    "litert": write_litert,
    "onnx": write_onnx,
    "openvino": write_openvino,
}
_PACKAGES = {
    "litert": ("ai_edge_litert",),
    "onnx": ("tf2onnx", "onnxruntime"),
    "openvino": ("openvino",),
}

# --------------------------------------------------------------------------- certificate


def _certify(
    classifier: Served,
    folder: Path,
    written: Mapping[str, Written],
    test: Sample,
) -> dict[str, Any]:
    nouns, golden = classifier.input.nouns, questions_of(classifier.input).golden

    def scores_of(inputs: np.ndarray) -> np.ndarray:
        [scores] = classifier.expected(tf.constant(inputs)).values()
        return scores

    with tf.device("CPU:0"):
        encoded = tf.constant(list(golden.values()))
        inputs: Any = decoded(encoded, classifier.input)[0]
    expected = scores_of(inputs.numpy())
    accuracy = _accuracy(scores_of, test, classifier)
    certificate = {
        "compared_with": f"the Keras model, on golden {nouns} and on {nouns} of the test split",
        f"golden_{nouns}": list(golden),
        f"test_{nouns}": len(test),
        "keras_accuracy": accuracy,
    }
    for name, model in written.items():
        difference = float(np.abs(model.answer(inputs.numpy()) - expected).max())
        own = _accuracy(model.answer, test, classifier)
        drop = None if accuracy is None or own is None else accuracy - own
        certificate[name] = {
            "tolerance": model.tolerance,
            "max_difference": difference,
            "accuracy": own,
            "accuracy_drop": drop,
            "latency_ms": {str(n): _latency(model.answer, inputs[:1].numpy(), n) for n in BATCHES},
            "size_bytes": sum((folder / file).stat().st_size for file in model.files),
        }
        # Where scores may differ, they must still be scores.
        check_difference(name, difference, 1.0 if model.tolerance is None else model.tolerance)
        if drop is not None and drop > INT8_DROP and len(test) >= _ENOUGH:
            raise TrainingError(
                f"export: {name} has an accuracy of {own:.3f}, the Keras model "
                f"{accuracy:.3f}; it may lose {INT8_DROP:g}"
            )
    return {**certificate, "size_bytes": size_of(folder)}


def _accuracy(answer: Answer, test: Sample, classifier: Served) -> float | None:
    """Returns how often the best class is right; of several labels, how often each label is."""
    if not len(test):
        return None
    scores = np.concatenate([answer(batch) for batch in test.batches(_BATCH)])
    if not isinstance(next(iter(classifier.outputs.values())), OneOf):
        return float(np.mean((scores >= 0.5) == (test.targets >= 0.5)))
    return float(np.mean(scores.argmax(axis=1) == test.targets.argmax(axis=1)))


def _latency(answer: Answer, one: np.ndarray, batch: int) -> float:
    inputs = np.repeat(one, batch, axis=0)
    return round(1e3 * median_seconds(functools.partial(answer, inputs)), 3)
