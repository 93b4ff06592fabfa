"""Proof that an exported model answers as the trained one does."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.errors import TrainingError, first_line
from ftkeras.export.classifier import Served, outputs_on_cpu
from ftkeras.export.fresh_process import BATCHES
from ftkeras.export.openvino_engine import openvino_answer
from ftkeras.export.publish import size_of
from ftkeras.export.questions import Questions, questions_of
from ftkeras.export.signatures import decoded
from ftkeras.inputs.base import Input
from ftkeras.keras_internals import flat_layers
from ftkeras.outputs.classes import Classes
from ftkeras.timeline import stage

TOLERANCE = 1e-4
"""The largest difference of two scores (0..1), or of features relative to the largest one, that
counts as the same answer of the same operations."""
OTHER_TOLERANCE = {"float32": 1e-3, "mixed": 3e-2}
"""The same for another engine's operations: it adds up in another order, and computes in float32
what the model computes in 16 bits."""


@stage("export: certificate")
def certify_saved_model(
    path: str | os.PathLike[str],
    servable: Served,
    golden: Mapping[str, bytes],
    fresh: FreshProcess | None = None,
) -> dict[str, Any]:
    """Compares a SavedModel with its Keras model, in a fresh process that imports TensorFlow alone.

    What is right is what the model itself returns, computed apart from all that is exported.

    It also gets files that it must refuse, beside the golden examples. Each of these must get an
    error of its own and no answer, and the other files must be answered. All run on the CPU, so
    that an accelerator's rounding does not decide. If OpenVINO is installed, it gives a second
    opinion.

    Args:
        path: The SavedModel's folder, where another process can read it.
        servable: What was exported.
        golden: Raw examples to send, by name, at least one.
        fresh: The process that answers, if it was started while the export was being written.

    Returns:
        The certificate, ready for JSON.

    Raises:
        TrainingError: The SavedModel could not be asked, or answered differently.
    """
    kind, asked = servable.input, questions_of(servable.input)
    raw = [*golden.values(), *asked.refused.values()]
    with fresh or FreshProcess(kind) as process:
        process.load(os.fspath(path))
        with tf.device("CPU:0"):
            inputs, _ = decoded(tf.constant(list(golden.values())), kind)
        process.ask(raw, kind, inputs)
        expected = servable.expected(inputs)  # while the process answers
        opinion = _second_opinion(servable, inputs, expected)
        answers = process.answers()
    differences = _differences(answers, servable, inputs, expected, len(golden))
    return {
        **servable.card(),
        f"golden_{kind.nouns}": list(golden),
        f"refused_{kind.nouns}": list(asked.refused),
        "refused": f"each gets an error of its own; other {kind.nouns} of the batch are answered",
        "limits": asked.limits,
        "saved_model": _facts(os.fspath(path), kind, differences, answers),
        "openvino": opinion,
    }


def _differences(
    answers: Mapping[str, np.ndarray], servable: Served, inputs: Any, expected: Any, golden: int
) -> dict[str, float]:
    """Returns the largest difference by signature; raises if one is too large."""
    kind, found = servable.input, {}
    for signature in sorted({name.split("/")[0] for name in answers} - {"seconds"}):
        said = {k.split("/")[1]: v for k, v in answers.items() if k.startswith(f"{signature}/")}
        if "error" in said:
            said = _answered(signature, said, golden, questions_of(kind), kind)
        if signature == "features":
            found[signature] = _compare_features(said, servable, inputs)
        else:
            found[signature] = _compare_answers(signature, said, expected, servable)
    return found


def _facts(
    path: str, kind: Input, differences: Mapping[str, float], answers: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns the certificate's part about the SavedModel itself."""
    packages = " and ".join(["TensorFlow", *kind.serving_packages])
    return {
        "compared_with": f"the Keras model; in a fresh process that imports only {packages}",
        "tolerance": TOLERANCE,
        "max_difference": differences,
        "latency_ms": {
            signature: {
                str(size): round(1e3 * float(answers[f"seconds/{signature}/{size}"]), 3)
                for size in BATCHES
            }
            for signature in ("serving_default", kind.wire.prepared)
        },
        "size_bytes": size_of(path),
    }


def tolerance_of(classifier: Served) -> float:
    """Returns how far another engine's scores may be from the Keras model's."""
    layers = flat_layers(classifier.model, include_self=False)
    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers)
    return OTHER_TOLERANCE["mixed" if half else "float32"]


def check_difference(what: str, difference: float, tolerance: float) -> None:
    """Raises TrainingError if an export's answers are too far from the model's."""
    if not difference <= tolerance:  # so that NaN fails, too
        raise TrainingError(
            f"export: {what} and the Keras model disagree by {difference:.2g}, and "
            f"{tolerance:g} is allowed"
        )


def _compare_answers(
    signature: str, said: Mapping[str, np.ndarray], expected: Any, servable: Served
) -> float:
    """Returns the largest difference on the golden examples; raises if it is too large."""
    golden = len(tf.nest.flatten(expected)[0])
    asked = len(next(iter(said.values())))
    rows = np.resize(np.arange(golden), asked)  # a fixed batch may repeat some, or have fewer
    wanted = tf.nest.map_structure(lambda values: values[rows], expected)
    difference, fault = servable.difference(wanted, said)
    check_difference(f"the SavedModel's signature {signature!r}", difference, TOLERANCE)
    if fault:
        raise TrainingError(f"export: the SavedModel's signature {signature!r} {fault}")
    return difference


def _compare_features(said: Mapping[str, np.ndarray], servable: Served, inputs: Any) -> float:
    *_, expected = tf.nest.flatten(outputs_on_cpu(servable.network, inputs))
    off = np.abs(said["features"] - expected).max()
    difference = float(off / np.abs(expected).max(initial=1e-6))
    check_difference("the SavedModel's features", difference, TOLERANCE)
    return difference


def _answered(
    signature: str,
    said: Mapping[str, np.ndarray],
    golden: int,
    asked: Questions,
    kind: Input,
) -> dict[str, np.ndarray]:
    """Returns the answers about the golden examples, after a check that no other has one."""
    who = f"export: the SavedModel's signature {signature!r}"
    errors = [str(error) for error in said["error"]]
    if [bool(e) for e in errors] != [False] * golden + [True] * len(asked.refused):
        raise TrainingError(f"{who} does not tell broken {kind.nouns} from the others: {errors}")
    for name, error in zip(asked.refused, errors[golden:], strict=True):
        if not asked.is_told(name, error):
            raise TrainingError(f"{who} gives the {kind.noun} {name!r} another's error: {error}")
    for name, values in said.items():
        nothing = -1 if values.dtype == np.int32 else values.dtype.type()
        if name != "error" and (values[golden:] != nothing).any():
            raise TrainingError(f"{who} gives {name} for what it refuses")
    return {name: values[:golden] for name, values in said.items() if name != "error"}


@stage("export: OpenVINO as second opinion")
def _second_opinion(servable: Served, inputs: Any, expected: Any) -> dict[str, Any]:
    if isinstance(inputs, dict):
        return {"status": "asked about models of one input alone"}
    if not (servable.is_alone and isinstance(next(iter(servable.outputs.values())), Classes)):
        return {"status": "asked about classifiers alone"}
    if importlib.util.find_spec("openvino") is None:
        return {"status": "not installed"}
    try:
        scores = openvino_answer(servable)(inputs.numpy())
    except Exception as error:  # an operation that it lacks is no fault of the export
        return {"status": f"cannot run the model: {first_line(error)}"}
    [wanted] = expected.values()
    difference = float(np.abs(scores - wanted).max())
    check_difference("OpenVINO", difference, tolerance_of(servable))
    return {"tolerance": tolerance_of(servable), "max_difference": difference}


class FreshProcess:
    """Asks a SavedModel in a process that imports TensorFlow alone, and that import comes first.

    If this process is killed, that one reads the end of its input, and ends, too.

    Args:
        kind: What the examples are; the packages that a server must link are imported, too.

    Example:
        ```python
        with FreshProcess(kind) as fresh:  # imports TensorFlow, while
            archive.write_out(path)
            fresh.load(path)  # and reads it, while
            inputs, _ = decoded(raw, kind)
            fresh.ask(raw, kind, inputs)
            expected = model(inputs)  # it answers
            answers = fresh.answers()
        ```
    """

    def __init__(self, kind: Input) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        script = Path(__file__).with_name("fresh_process.py")
        self._process = subprocess.Popen(
            [sys.executable, script, *kind.serving_packages],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def load(self, path: str) -> None:
        """Sends the path of the SavedModel, a folder; the process loads it."""
        self._send(path)

    def ask(
        self,
        raw: Sequence[Any],
        kind: Input,
        inputs: Any,
        more: Mapping[str, Sequence[bytes]] = MappingProxyType({}),
    ) -> None:
        """Sends the questions; the process begins to answer.

        Args:
            raw: Raw examples.
            kind: What they are.
            inputs: Those of them that can be read, as the model takes them.
            more: Strings for other arguments of signatures, by name.
        """
        scratch, wire = Path(self._scratch.name), kind.wire
        others = {
            name: [base64.b64encode(one).decode("ascii") for one in strings]
            for name, strings in more.items()
        }
        names = {**wire._asdict(), "more": others}
        (scratch / "names.json").write_text(json.dumps(names))
        if kind.raw.dtype == tf.string:
            for i, content in enumerate(raw):
                (scratch / f"{i:06d}.raw").write_bytes(content)
        else:
            np.save(scratch / "raw.npy", np.stack(raw))
        trees = inputs if isinstance(inputs, dict) else {wire.prepared: inputs}
        np.savez(scratch / "prepared.npz", **{name: x.numpy() for name, x in trees.items()})
        self._send([str(scratch), str(scratch / "answers.npz")])

    def _send(self, what: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended early: `answers` raises the reason
            self._process.stdin.write(f"{json.dumps(what)}\n")
            self._process.stdin.flush()

    @stage("export: wait for the fresh process")
    def answers(self) -> dict[str, np.ndarray]:
        """Returns what the process answered, by signature and output.

        Raises:
            TrainingError: It could not be asked.
        """
        _, said = self._process.communicate()
        if self._process.returncode:
            last = (said.strip() or "no message").splitlines()[-1]
            raise TrainingError(f"export: the SavedModel cannot be served: {last}")
        with np.load(Path(self._scratch.name, "answers.npz"), allow_pickle=False) as arrays:
            return dict(arrays)

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:  # an error came first
            self._process.kill()
            self._process.communicate()
        self._scratch.cleanup()
