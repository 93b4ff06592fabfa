"""What a config of the task `domain_adaptation` says besides the shared sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftkeras.config.data import DataConfig
from ftkeras.config.fields import NonNegativeFloat, Section, Units
from ftkeras.config.schema import Config


class DomainSection(Section):
    """Where the model will be used, and how it gets there without labels."""

    target: DataConfig
    """The target's images: a section like `data`, of which only the source and the split count.
    Labels train nothing; where they are the source's classes, accuracy is measured with them."""
    method: Literal["none", "adabn", "coral", "dann", "pseudo_labels"] = "coral"
    """none (source only), adabn (Li et al. 2017), coral (Sun and Saenko 2016), dann (Ganin et al.
    2016) or pseudo_labels (Lee 2013)."""
    weight: NonNegativeFloat = 1.0
    """Weight of the second loss: of coral, dann and pseudo_labels."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """How sure an answer must be to become a pseudo-label."""
    gamma: NonNegativeFloat = 10.0
    """How soon dann's reversed gradient and pseudo_labels' loss reach full strength, which is
    2 / (1 + exp(-gamma * p)) - 1 at the share p of all steps."""
    units: Units = 128
    """Width of dann's domain classifier."""


class DomainConfig(Config):
    """An experiment in moving to another domain."""

    task: Literal["domain_adaptation"]
    domain_adaptation: DomainSection
    """Where the model will be used, and how it gets there without labels."""
