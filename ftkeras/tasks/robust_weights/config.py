"""The sections of a config that only the task `robust_weights` has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ftkeras.config.fields import PositiveInt, Section
from ftkeras.config.schema import Config, PhasesConfig, StrategyConfig


class RobustWeightsSection(Section):
    """Weights between those of several models, chosen on clean and corrupted validation images."""

    method: Literal["wise_ft", "uniform_soup", "greedy_soup"] = "wise_ft"
    """wise_ft: between the linear probe, which the first phase trains, and the fine-tuned model.
    uniform_soup, greedy_soup: the mean of finished runs, without training."""
    alphas: Annotated[list[Annotated[float, Field(ge=0.0, le=1.0)]], Field(min_length=1)] = [
        0.0,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
        0.8,
        0.9,
        1.0,
    ]
    """For wise_ft: the shares of the fine-tuned weights to choose from; 0 is the probe."""
    runs: list[str] = []
    """For soups: the folders of two finished runs or more."""
    select: Literal["mean", "clean"] = "mean"
    """The validation accuracy that decides: the mean of clean and corrupted, or clean alone."""
    corruptions: list[str] | None = None
    """Corruptions by the names of `ftkeras robustness`. Default: gaussian_noise, defocus_blur, fog,
    contrast and jpeg_compression; none for examples that cannot be corrupted, such as texts. With
    none, the clean accuracy decides."""
    severity: Annotated[int, Field(ge=1, le=5)] = 3
    """The severity of the corruptions."""
    examples: PositiveInt = 100
    """How many images of a split are corrupted."""

    @field_validator("alphas")
    @classmethod
    def _rising(cls, alphas: list[float]) -> list[float]:
        if sorted(set(alphas)) != alphas:
            raise ValueError("alphas must rise")
        return alphas

    @model_validator(mode="after")
    def _soups_have_runs(self) -> RobustWeightsSection:
        soup = self.method != "wise_ft"
        if soup and len(set(self.runs)) < max(len(self.runs), 2):
            raise ValueError(f"{self.method} takes two runs or more, each once")
        if self.runs and not soup:
            raise ValueError("runs are for uniform_soup and greedy_soup")
        return self


class RobustWeightsConfig(Config):
    """A config of the task `robust_weights`."""

    task: Literal["robust_weights"]
    phases: PhasesConfig = StrategyConfig(strategy="lp_ft")
    robust_weights: RobustWeightsSection = RobustWeightsSection()
