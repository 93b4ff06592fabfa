"""What a config of several heads says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ftkeras.config.fields import NonNegativeFloat, PositiveFloat, Section
from ftkeras.config.schema import Config


class HeadOfMany(Section):
    """One head: what it is asked, and how much its loss counts."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    """A name for metrics, reports and the exported model's outputs: lower case, digits, _."""
    column: str = "label"
    """The manifest's column with the answers, or label: what the source calls so. An empty cell is
    an answer that nobody knows."""
    kind: Literal["classes", "labels", "number"] = "classes"
    """One of several classes, any number of labels ('a;b' in CSV, a list in JSON), or a number."""
    map: dict[str, str] = {}
    """What the column's values stand for: {sneaker: shoe}; to "" is: not known."""
    weight: PositiveFloat = 1.0
    """How much the head's loss counts; where weights are found, what they start from."""


class MultiTaskSection(Section):
    """Several heads on one network."""

    heads: Annotated[list[HeadOfMany], Field(min_length=1)]
    """The heads."""
    weighting: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    """How much each head's loss counts: as given, by the noise of its targets (Kendall et al.
    2018), or so that heads learn at similar rates (Chen et al. 2018)."""
    alpha: NonNegativeFloat = 1.5
    """gradnorm: how strongly a head that lags behind is favoured."""
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
    """A network that answers several questions about each image."""

    task: Literal["multi_task"]
    """What is learned."""
    multi_task: MultiTaskSection
    """The heads, and how their losses are weighed."""
