"""The sections of a config that only the task `few_shot` has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ftkeras.config.fields import PositiveInt, Section
from ftkeras.config.schema import Config, PhasesConfig, StrategyConfig

Method = Literal["logistic", "cosine", "nearest_mean", "phases"]


class FewShotSection(Section):
    """A few labelled examples per class, and how a method is chosen with them alone."""

    shots: PositiveInt = 5
    """Examples per class, drawn from the training split under the seed."""
    methods: Annotated[list[Method], Field(min_length=1)] = [
        "logistic",
        "cosine",
        "nearest_mean",
        "phases",
    ]
    """The methods to choose from by cross-validation: heads on frozen features (logistic
    regression, cosine prototypes, nearest class mean), and the config's phases. With one example
    per class there is nothing to validate on, and the first is taken."""
    folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Folds of the cross-validation, at most as many as shots."""
    stages: Annotated[int, Field(ge=1, le=10)] | None = None
    """Frozen features are taken at the ends of this many of the last resolutions; default: 2. Leave
    it out if the backbone has no resolutions: its pooled features are taken."""
    draws: PositiveInt = 20
    """How many times examples are drawn to measure the heads; the run keeps the first draw's
    model."""
    phase_draws: PositiveInt = 1
    """How many of these draws also train through the phases: once per fold, then on all."""

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: list[Method]) -> list[Method]:
        twice = sorted({name for name in methods if methods.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice")
        return methods


class FewShotConfig(Config):
    """A config of the task `few_shot`."""

    task: Literal["few_shot"]
    phases: PhasesConfig = StrategyConfig(strategy="lp_ft")
    few_shot: FewShotSection = FewShotSection()
