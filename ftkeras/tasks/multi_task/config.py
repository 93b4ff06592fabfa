"""The sections of a config that only the task `multi_task` has."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from ftkeras.config.fields import NonNegativeFloat, PositiveFloat, Section
from ftkeras.config.schema import Config, OutputConfig, OutputName


class HeadOfMany(OutputConfig):
    """One output, with its name, in the form of version 0.1; use `outputs` now."""

    name: OutputName
    """A name for metrics, reports and the exported model's outputs: lower case, digits, _."""
    column: str = "label"
    """The manifest's column with the answers, or label."""


class MultiTaskSection(Section):
    """How much the loss of each output counts."""

    heads: list[HeadOfMany] = []
    """The outputs in the form of version 0.1; use `outputs` now."""
    weighting: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    """How the outputs' losses are weighed: by fixed weights, by the noise of the targets (Kendall
    et al. 2018), or so that outputs learn at similar rates (Chen et al. 2018)."""
    alpha: NonNegativeFloat = 1.5
    """gradnorm: how strongly an output that lags behind is favoured."""
    weight_rate: PositiveFloat = 0.025
    """gradnorm: the step size of the weights."""

    @model_validator(mode="after")
    def _names_differ(self) -> MultiTaskSection:
        names = [head.name for head in self.heads]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"heads: the name {twice[0]!r} is given twice; names must differ")
        return self


class MultiTaskConfig(Config):
    """A config of the task `multi_task`."""

    task: Literal["multi_task"]
    """What is learned."""
    multi_task: MultiTaskSection = MultiTaskSection()
    """How the outputs' losses are weighed."""

    @property
    def asked(self) -> dict[str, OutputConfig]:
        return super().asked or {head.name: head for head in self.multi_task.heads}

    @model_validator(mode="after")
    def _some_outputs(self) -> MultiTaskConfig:
        if bool(self.outputs) == bool(self.multi_task.heads):
            raise ValueError("outputs: multi_task needs them; multi_task.heads is their old place")
        return self
