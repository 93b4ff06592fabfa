"""The schema of each task's config: one of the shared sections, and at most one of its own.

A task's own is a subclass of `Config` in a module of this package, with a section of the task's
name. Nothing here imports TensorFlow, so that a wrong config is told at once.
"""

from __future__ import annotations

from typing import Any

from ftkeras.config.adversarial import AdversarialConfig
from ftkeras.config.domain_adaptation import DomainConfig
from ftkeras.config.few_shot import FewShotConfig
from ftkeras.config.incremental import IncrementalConfig
from ftkeras.config.multi_task import MultiTaskConfig
from ftkeras.config.robust_weights import RobustWeightsConfig
from ftkeras.config.schema import Config

SCHEMAS: dict[str, type[Config]] = {
    "classification": Config,
    "adversarial": AdversarialConfig,
    "domain_adaptation": DomainConfig,
    "few_shot": FewShotConfig,
    "incremental": IncrementalConfig,
    "multi_task": MultiTaskConfig,
    "robust_weights": RobustWeightsConfig,
}


def json_schema() -> dict[str, Any]:
    """Returns one JSON schema for the configs of all tasks, for editors."""
    merged: dict[str, Any] = {}
    for schema in SCHEMAS.values():
        found = schema.model_json_schema()
        merged = merged or found
        merged["$defs"] = {**found["$defs"], **merged["$defs"]}
        merged["properties"] = {**found["properties"], **merged["properties"]}
    merged["properties"]["task"]["enum"] = list(SCHEMAS)
    return merged
