"""A finished run's model, measured on labelled examples that the run has never seen."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ftkeras.config.data import DataSection, FolderData, ManifestData
from ftkeras.config.schema import Config
from ftkeras.data.dataset import Data
from ftkeras.data.load import Expected
from ftkeras.devices.strategy import prepare
from ftkeras.errors import UserError, did_you_mean
from ftkeras.evaluation.answers import write_answers
from ftkeras.evaluation.measure import measure
from ftkeras.evaluation.thresholds import outputs_of_run, temperatures_of
from ftkeras.files import whole_path
from ftkeras.outputs.base import Output
from ftkeras.outputs.classes import Classes
from ftkeras.outputs.kinds import only_classes
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.finished import load_model

_NAME = "new"  # of the split, in the names of files
_TABLES = (".csv", ".jsonl")


def evaluate_on(run: Run, path: str, split: str = "test") -> dict[str, Any]:
    """Measures a run's model on new labelled examples; returns the metrics.

    The run's temperature is used. `evaluation.json` stays; the answers are kept in
    `predictions/new.npz` and `answers-new.csv`. `left_out` counts files that cannot be used.

    Args:
        run: A finished run that answers with classes or labels.
        path: A folder with one folder per class, or a .csv or .jsonl file as for
            `data.source: manifest`. A run that was trained from a manifest reads the same columns.
        split: Which part is measured if the data are divided into parts; otherwise all are.

    Raises:
        UserError: There are no such data, they hold a class that the run does not know, or the run
            has other outputs.
    """
    config, outputs = run.config, outputs_of_run(run)
    output = only_classes(outputs, "evaluate --data")
    prepare(config.seed, config.training.precision, config.training.deterministic)
    data = _one_split(_read(config, path, output), outputs, split)
    model = load_model(run)
    feed = build.feed(config, data, model)
    evaluation = measure(model, feed, run, _NAME, temperatures=temperatures_of(run, outputs))
    write_answers(run, outputs, evaluation, final=False)
    return {**evaluation, "left_out": len(data.bad_files)}


def _read(config: Config, path: str, output: Classes) -> Data:
    """Returns the examples, whose classes are numbered as the run's are."""
    data = build.data(
        config,
        expected=Expected(classes=output.class_names),
        of=_section(config, path),
        split={"val": 0.0, "test": 0.0},  # the data's own parts, and no others
    )
    if only_classes(data.outputs, "evaluate --data").kind != output.kind:
        raise UserError(f"evaluate --data: {path} has no {output.kind}, which the run answers.")
    strangers = data.class_names[output.units :]
    if strangers:
        raise UserError(
            f"evaluate --data: the run has no class {strangers[0]!r}."
            f"{did_you_mean(strangers[0], output.class_names)} "
            f"It has {', '.join(output.class_names[:20])}."
        )
    return data


def _section(config: Config, path: str) -> DataSection:
    whole = whole_path(path)
    if "://" not in path and not os.path.exists(whole):
        raise UserError(f"evaluate --data: there is no folder or file {path!r}.")
    shared = {name: getattr(config.data, name) for name in DataSection.model_fields}
    if not path.endswith(_TABLES):
        if os.path.isfile(whole):
            raise UserError(f"evaluate --data: {path!r} is no folder, .csv or .jsonl file.")
        return FolderData(source="folder", path=whole, **shared)
    if isinstance(config.data, ManifestData):
        return config.data.model_copy(update={"path": whole})
    return ManifestData(source="manifest", path=whole, **shared)


def _one_split(data: Data, outputs: Mapping[str, Output], split: str) -> Data:
    """Returns the data with the measured examples as the split `new`, and one to set up batches."""
    if len(data.splits) > 1 and split not in data.splits:
        raise UserError(f"--split {split}: the data have only {', '.join(data.splits)}.")
    measured = data.splits[split] if len(data.splits) > 1 else next(iter(data.splits.values()))
    measured = dataclasses.replace(measured, name=_NAME)
    return dataclasses.replace(data, outputs=outputs, splits={"train": measured, _NAME: measured})
