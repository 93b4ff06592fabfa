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

from ftkeras.config.moved import move
from ftkeras.errors import UserError
from ftkeras.evaluation.predictions import Predictions, load_predictions
from ftkeras.inputs.registry import nouns_in
from ftkeras.outputs.base import Output
from ftkeras.outputs.kinds import facts_of, only_output, outputs_of
from ftkeras.run import Run

GALLERY = "pictures.json"
SPLITS = ("test", "val", "train")  # the ones first that are worth most


@dataclass(frozen=True)
class RunFacts:
    """All that a report says of a run.

    Args:
        name: What the run is called: its folder's name.
        folder: Its folder as it was given.
        config: The resolved config, as a tree and as text.
        environment, status, data, plan: The files of these names; empty if missing.
        records: The lines of `metrics.jsonl`.
        events: The lines of `events.jsonl`.
        bad_files: (path, reason) of each file that was left out.
        task: `task.json`, what the run's task wrote down; empty if missing.
        evaluation, robustness, certificate, refit: The files of these names; None if missing.
        predictions: By split; of several outputs by SPLIT-OUTPUT.
        gallery: `pictures.json`: what is shown of an example, by split and id.
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
    refit: dict[str, Any] | None = None
    predictions: dict[str, Predictions] = field(default_factory=dict)
    gallery: dict[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, Output]:
        """What the model answers, by name."""
        measured = self.evaluation or {}
        names = [row["name"] for row in measured.get("per_class", ())]
        told = {"class_names": names, "multi_label": "label_accuracy" in measured}
        return outputs_of({**told, **{k: v for k, v in self.data.items() if v or k not in told}})

    @property
    def noun(self) -> str:
        """What people call one example."""
        return nouns_in(self.data)[0]

    @property
    def nouns(self) -> str:
        """What people call several examples."""
        return nouns_in(self.data)[1]

    @property
    def size(self) -> int | None:
        """The side of what the model takes, in pixels; None of what has no sides."""
        return self.data.get("image_size")

    @property
    def is_drawn(self) -> bool:
        """Whether there are drawings of its examples."""
        return bool(self.data.get("drawn", True))

    @property
    def output(self) -> Output | None:
        """The only output; None if there are several."""
        return only_output(self.outputs)

    @property
    def class_names(self) -> list[str]:
        """The classes of the only output, in the order of the logits."""
        return list(self.output.class_names) if self.output else []

    def of(self, name: str) -> RunFacts:
        """Returns what is known of one of several outputs, as if it were the only one."""
        part = (self.evaluation or {}).get("heads", {}).get(name, {})
        return dataclasses.replace(
            self,
            evaluation={"split": self.split, **part},
            data={**self.data, "heads": None, **facts_of({name: self.outputs[name]})},
            predictions={
                split: self.predictions[f"{split}-{name}"]
                for split in SPLITS
                if f"{split}-{name}" in self.predictions
            },
        )

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
    move(config)
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
        refit=_json(run, "refit.json"),
        gallery=_json(run, GALLERY) or {},
    )
    alone, known = facts.output is not None, {}
    for split in SPLITS:
        for name, output in facts.outputs.items():
            key = split if alone else f"{split}-{name}"
            if (predictions := _predictions(run, key, output.units)) is not None:
                known[key] = predictions
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


def _predictions(run: Run, key: str, units: int) -> Predictions | None:
    try:
        predictions = load_predictions(run, key)
    except (UserError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return predictions if predictions.logits.shape[1:] == (units,) else None
