"""ftkeras fine-tunes pretrained Keras backbones in phases, with proof of what was frozen.

Names are loaded when they are first used: importing ftkeras does not import TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ftkeras.version import __version__

_HOMES = {
    "Adapters": "ftkeras.model.lora",
    "Block": "ftkeras.backbones",
    "Backbone": "ftkeras.backbones",
    "Classifier": "ftkeras.export.classifier",
    "Phase": "ftkeras.phases",
    "Run": "ftkeras.run",
    "Smoothed": "ftkeras.phases",
    "StagedUnfreezing": "ftkeras.phases",
    "TrainingError": "ftkeras.errors",
    "Until": "ftkeras.phases",
    "UserError": "ftkeras.errors",
    "add_lora": "ftkeras.model.lora",
    "batches": "ftkeras.runs.build",
    "build_model": "ftkeras.model.assemble",
    "compare_runs": "ftkeras.evaluation.comparison",
    "evaluate": "ftkeras.runs.finished",
    "extend": "ftkeras.tasks.incremental.extend",
    "export_saved_model": "ftkeras.export.saved_model",
    "format_plan": "ftkeras.phases",
    "load_adapters": "ftkeras.model.lora",
    "load_backbone": "ftkeras.backbones",
    "load_config": "ftkeras.config.load",
    "load_data": "ftkeras.data.load",
    "load_model": "ftkeras.runs.finished",
    "load_run": "ftkeras.runs.finished",
    "make_plan": "ftkeras.phases",
    "merge_lora": "ftkeras.model.lora",
    "predict": "ftkeras.runs.finished",
    "register_input": "ftkeras.inputs.registry",
    "robustness": "ftkeras.runs.finished",
    "train": "ftkeras.runs.train",
    "weights_of": "ftkeras.phases",
    "write_report": "ftkeras.runs.finished",
}
__all__ = [
    "__version__",
    "Adapters",
    "Block",
    "Backbone",
    "Classifier",
    "Phase",
    "Run",
    "Smoothed",
    "StagedUnfreezing",
    "TrainingError",
    "Until",
    "UserError",
    "add_lora",
    "batches",
    "build_model",
    "compare_runs",
    "evaluate",
    "extend",
    "export_saved_model",
    "format_plan",
    "load_adapters",
    "load_backbone",
    "load_config",
    "load_data",
    "load_model",
    "load_run",
    "make_plan",
    "merge_lora",
    "predict",
    "register_input",
    "robustness",
    "train",
    "weights_of",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ftkeras' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from ftkeras.backbones import Backbone, Block, load_backbone
    from ftkeras.config.load import load_config
    from ftkeras.data.load import load_data
    from ftkeras.errors import TrainingError, UserError
    from ftkeras.evaluation.comparison import compare_runs
    from ftkeras.export.classifier import Classifier
    from ftkeras.export.saved_model import export_saved_model
    from ftkeras.inputs.registry import register_input
    from ftkeras.model.assemble import build_model
    from ftkeras.model.lora import Adapters, add_lora, load_adapters, merge_lora
    from ftkeras.phases import (
        Phase,
        Smoothed,
        StagedUnfreezing,
        Until,
        format_plan,
        make_plan,
        weights_of,
    )
    from ftkeras.run import Run
    from ftkeras.runs.build import batches
    from ftkeras.runs.finished import (
        evaluate,
        load_model,
        load_run,
        predict,
        robustness,
        write_report,
    )
    from ftkeras.runs.train import train
    from ftkeras.tasks.incremental.extend import extend
