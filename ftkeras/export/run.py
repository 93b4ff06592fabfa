"""Exports a run in the formats of the config or of --format, and keeps their certificates in it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import plain
from ftkeras.errors import UserError
from ftkeras.evaluation.robustness import sample
from ftkeras.export.classifier import Served
from ftkeras.export.formats import Sample, check_formats, export_format
from ftkeras.export.saved_model import export_saved_model
from ftkeras.export.serving import FOLDER, model_name
from ftkeras.inputs.base import Input
from ftkeras.outputs.kinds import only_classes
from ftkeras.run import Run

CALIBRATED_ON, MEASURED_ON = 100, 500  # examples, for the formats besides SavedModel


def export_run(
    run: Run,
    servable: Served,
    directory: str,
    formats: Sequence[str],
    samples: Callable[[], tuple[Sample, Sample]],
) -> dict[str, str]:
    """Writes a run's model, proves each format equal to it, and returns where each is.

    Args:
        run: The run, whose `certificate.json` gets the certificates.
        servable: The run's model, its labels, and how its answers are meant.
        directory: Where the SavedModel's versions go, and a folder for each other format.
        formats: saved_model, litert, onnx, openvino.
        samples: Reads examples to calibrate on and to measure with; called if they are needed.

    Raises:
        UserError: A format's packages are missing, it cannot take such examples, or the directory
            cannot be written.
        TrainingError: A format answers differently; it is not written.
    """
    others = [name for name in formats if name != "saved_model"]
    check_formats(others)
    if others:
        only_classes(servable.outputs, f"export: {others[0]}")
        _check_one_array(servable.input, others[0])
    paths = {}
    if "saved_model" in formats:
        paths["saved_model"] = export_saved_model(
            servable,
            directory,
            name=model_name(os.path.basename(run.folder.rstrip("/"))),
            static_batch=run.config.export.static_batch,
        )
        keep_certificate(run, "saved_model", paths["saved_model"], "assets.extra")
    if others:
        calibration, test = samples()
    for name in others:
        paths[name] = export_format(
            servable, os.path.join(directory, name), name, calibration=calibration, test=test
        )
        keep_certificate(run, name, paths[name])
    return paths


def _check_one_array(kind: Input, name: str) -> None:
    """Refuses examples that are not one array of floats, which is what is written and tried."""
    if [spec.dtype for spec in kind.takes.values()] != [tf.float32]:
        raise UserError(
            f"export: the format {name} is for models that take one array of float32, and of "
            f"{kind.nouns} a model takes {', '.join(kind.takes)}. Export a saved_model."
        )


def take(split: Split, examples: int, kind: Input, seed: int) -> Sample:
    """Returns some of a split's examples, drawn under the seed, as a model takes them."""
    dataset, levels = plain(sample(split, examples, seed), kind, 32), kind.ability("levels")
    small = np.asarray if levels is None else levels.to_bytes
    parts = [(small(inputs), labels.numpy()) for inputs, labels, *_ in dataset]
    inputs, targets = zip(*parts, strict=True)
    return Sample(np.concatenate(inputs), np.concatenate(targets))


def what_was_checked(certificate: Mapping[str, Any]) -> list[str]:
    """Returns lines on a written format, for people: what was compared, and how to serve it.

    Args:
        certificate: One of the run's `certificate.json`.
    """
    parts = {
        name: part
        for name, part in certificate.items()
        if isinstance(part, dict) and "max_difference" in part
    }
    served = parts.get("saved_model", {})
    size = served.get("size_bytes") or certificate["size_bytes"]
    lines = [
        f"compared    with {served.get('compared_with') or certificate['compared_with']}",
        f"difference  at most {'; '.join(_difference(name, parts[name]) for name in parts)}",
        f"size        {size / 1e6:.1f} MB",
    ]
    if served:
        folder = os.path.join(os.path.dirname(certificate["path"].rstrip("/")), FOLDER)
        lines += [
            f"signatures  {', '.join(served['max_difference'])}",
            f"serve       sh {shlex.quote(os.path.join(folder, 'serve.sh'))} starts TF Serving in "
            "Docker; clients are beside it (docs/serving.md)",
        ]
    return lines


def _difference(name: str, part: Mapping[str, Any]) -> str:
    """Returns how far a format's answers are from the model's, and how far they may be."""
    most, allowed = part["max_difference"], part["tolerance"]
    most = max(most.values()) if isinstance(most, dict) else most
    return f"{most:.1e} ({name}{'' if allowed is None else f'; {allowed:g} is allowed'})"


def keep_certificate(run: Run, name: str, path: str, *inside: str) -> None:
    """Copies the certificate of a format's version into the run's own file."""
    with tf.io.gfile.GFile(os.path.join(path, *inside, "certificate.json")) as file:
        certificate = json.loads(file.read())
    known = tf.io.gfile.exists(run.path("certificate.json"))
    others = run.read_json("certificate.json") if known else {}
    run.write_json("certificate.json", {**others, name: {"path": path, **certificate}})
