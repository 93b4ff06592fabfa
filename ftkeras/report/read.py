"""What a run's folder holds, read for a report: any file of it may be missing or half-written."""

from __future__ import annotations

import csv
import dataclasses
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
import yaml

from ftkeras.errors import UserError
from ftkeras.evaluation.predictions import Predictions, load_predictions
from ftkeras.run import Run

SPLITS = ("test", "val", "train")  # the ones first that are worth most


@dataclass(frozen=True)
class RunFacts:
    """All that a report says of a run.

    Args:
        name: What the run is called: its folder's name.
        folder: Its folder as it was given.
        config: The resolved config, as a tree and as text.
        environment, status, data, plan: The files of these names; empty where missing.
        records: The lines of `metrics.jsonl`.
        events: The lines of `events.jsonl`.
        bad_files: (path, reason) of each file that was left out.
        task: `task.json`, what the run's task wrote down; empty where missing.
        evaluation, robustness, certificate: The files of these names; None where missing.
        predictions: By split.
        pictures: `pictures.json`: by example, data URIs of its image and of its overlay.
    """

    name: str
    folder: str
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    records: Sequence[dict[str, Any]] = ()
    events: Sequence[dict[str, Any]] = ()
    bad_files: Sequence[tuple[str, str]] = ()
    task: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    robustness: dict[str, Any] | None = None
    certificate: dict[str, Any] | None = None
    predictions: dict[str, Predictions] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the logits."""
        measured = (self.evaluation or {}).get("per_class", ())
        return list(self.data.get("class_names") or (row["name"] for row in measured))

    @property
    def multi_label(self) -> bool:
        """Whether an image may have any number of labels."""
        return bool(self.data.get("multi_label", "label_accuracy" in (self.evaluation or {})))

    @property
    def split(self) -> str:
        """The split that was measured."""
        return str((self.evaluation or {}).get("split", "test"))

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The planned phases."""
        return list(self.plan.get("phases", ()))

    def records_of(self, phase: str) -> list[dict[str, Any]]:
        """Returns a phase's lines of `metrics.jsonl`."""
        return [record for record in self.records if record.get("phase") == phase]


def read_run(folder: str) -> RunFacts:
    """Reads a run's folder.

    Raises:
        UserError: There is no run.
    """
    run = Run.open(folder)
    config_text = run.read_text("config.yaml")
    config = yaml.safe_load(config_text)
    facts = RunFacts(
        name=folder.rstrip("/").rsplit("/", 1)[-1],
        folder=folder,
        config=config if isinstance(config, dict) else {},
        config_text=config_text,
        environment=_json(run, "environment.json") or {},
        status=_json(run, "status.json") or {},
        data=_json(run, "data.json") or {},
        plan=_json(run, "plan.json") or {},
        records=_lines(run, "metrics.jsonl"),
        events=_lines(run, "events.jsonl"),
        bad_files=_bad_files(run),
        task=_json(run, "task.json") or {},
        evaluation=_json(run, "evaluation.json"),
        robustness=_json(run, "robustness.json"),
        certificate=_json(run, "certificate.json"),
        pictures=_json(run, "pictures.json") or {},
    )
    loaded = {split: _predictions(run, split, len(facts.class_names)) for split in SPLITS}
    known = {split: predictions for split, predictions in loaded.items() if predictions is not None}
    return dataclasses.replace(facts, predictions=known)


def _text(run: Run, name: str) -> str:
    return run.read_text(name) if tf.io.gfile.exists(run.path(name)) else ""


def _json(run: Run, name: str) -> dict[str, Any] | None:
    try:
        tree = json.loads(_text(run, name) or "null")
    except ValueError:
        return None
    return tree if isinstance(tree, dict) else None


def _lines(run: Run, name: str) -> list[dict[str, Any]]:
    records = []
    for line in _text(run, name).splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed
            continue
    return [record for record in records if isinstance(record, dict)]


def _bad_files(run: Run) -> list[tuple[str, str]]:
    rows = csv.reader(_text(run, "bad_files.csv").splitlines()[1:])
    return [(row[0], row[1]) for row in rows if len(row) == 2]


def _predictions(run: Run, split: str, classes: int) -> Predictions | None:
    try:
        predictions = load_predictions(run, split)
    except (UserError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return predictions if predictions.logits.shape[1:] == (classes,) else None
