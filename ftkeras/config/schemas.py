"""The config of each task. A task's own sections are in its package."""

from __future__ import annotations

import importlib
from typing import Any

from ftkeras.config.schema import Config

SCHEMAS = {
    "classification": "ftkeras.config.schema:Config",
    "adversarial": "ftkeras.tasks.adversarial.config:AdversarialConfig",
    "alignment": "ftkeras.tasks.alignment.config:AlignmentConfig",
    "domain_adaptation": "ftkeras.tasks.domain_adaptation.config:DomainConfig",
    "few_shot": "ftkeras.tasks.few_shot.config:FewShotConfig",
    "incremental": "ftkeras.tasks.incremental.config:IncrementalConfig",
    "multi_task": "ftkeras.tasks.multi_task.config:MultiTaskConfig",
    "robust_weights": "ftkeras.tasks.robust_weights.config:RobustWeightsConfig",
}
"""The pydantic model of each task's configs, by its path: importing this module imports no task."""


def schema_of(task: str) -> type[Config]:
    """Returns the pydantic model of a task's configs; KeyError if there is no such task."""
    module, _, name = SCHEMAS[task].partition(":")
    schema = getattr(importlib.import_module(module), name)
    assert issubclass(schema, Config)
    return schema


def json_schema() -> dict[str, Any]:
    """Returns one JSON schema for the configs of all tasks, for editors."""
    merged: dict[str, Any] = {}
    for task in SCHEMAS:
        schema = schema_of(task).model_json_schema()
        merged = merged or schema
        merged["$defs"] = {**schema["$defs"], **merged["$defs"]}
        merged["properties"] = {**schema["properties"], **merged["properties"]}
    merged["properties"]["task"]["enum"] = list(SCHEMAS)
    for section in merged["$defs"].values():  # drops the docstrings' parts for Python users
        section["description"] = section["description"].partition("\n\n")[0]
    return merged
