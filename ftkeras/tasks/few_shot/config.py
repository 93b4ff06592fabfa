"""What a few-shot config says beyond the shared sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ftkeras.config.fields import PositiveInt, Section
from ftkeras.config.schema import Config, PhasesConfig, StrategyConfig

Method = Literal["logistic", "cosine", "nearest_mean", "phases"]


class FewShotSection(Section):
    """A few labelled examples a class, and how a method is chosen with them alone."""

    shots: PositiveInt = 5
    """Examples a class, drawn from the training split under the seed."""
    methods: Annotated[list[Method], Field(min_length=1)] = [
        "logistic",
        "cosine",
        "nearest_mean",
        "phases",
    ]
    """What to choose from by cross-validation: heads on frozen features (logistic regression,
    cosine prototypes, nearest class mean), and the config's phases. With one example a class there
    is nothing to validate on, and the first is taken."""
    folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Parts of the cross-validation, at most as many as shots."""
    stages: Annotated[int, Field(ge=1, le=10)] | None = None
    """Frozen features are taken from the ends of this many of the last resolutions; left out, of
    two. A backbone without resolutions gives its pooled features, and this is left out."""
    draws: PositiveInt = 20
    """How many times examples are drawn to measure the heads; the first draw is the run's."""
    phase_draws: PositiveInt = 1
    """How many of these draws also train through the phases, once a fold and once more."""

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: list[Method]) -> list[Method]:
        twice = sorted({name for name in methods if methods.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice")
        return methods


class FewShotConfig(Config):
    """A few-shot experiment."""

    task: Literal["few_shot"]
    phases: PhasesConfig = StrategyConfig(strategy="lp_ft")
    few_shot: FewShotSection = FewShotSection()
