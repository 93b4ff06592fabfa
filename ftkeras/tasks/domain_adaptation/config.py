"""The sections of a config that only the task `domain_adaptation` has."""

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
    Its labels are not trained on. If they are the source's classes, accuracy is measured."""
    method: Literal["none", "adabn", "coral", "dann", "pseudo_labels"] = "coral"
    """none (source only), adabn (Li et al. 2017), coral (Sun and Saenko 2016), dann (Ganin et al.
    2016) or pseudo_labels (Lee 2013)."""
    weight: NonNegativeFloat = 1.0
    """Weight of the second loss of coral, dann and pseudo_labels."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """The least probability of an answer that becomes a pseudo-label."""
    gamma: NonNegativeFloat = 10.0
    """How fast dann's reversed gradient and pseudo_labels' loss reach full strength. The strength
    is 2 / (1 + exp(-gamma * p)) - 1 at the share p of all steps."""
    units: Units = 128
    """Width of dann's domain classifier."""


class DomainConfig(Config):
    """A config of the task `domain_adaptation`."""

    task: Literal["domain_adaptation"]
    domain_adaptation: DomainSection
    """Where the model will be used, and how it gets there without labels."""
