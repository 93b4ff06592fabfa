"""What a config of the task `incremental` says besides."""

from __future__ import annotations

from typing import Literal

from ftkeras.config.fields import FilePath, NonNegativeFloat, NonNegativeInt, PositiveFloat, Section
from ftkeras.config.schema import Config


class IncrementalSection(Section):
    """How new classes or images are learned without forgetting the old."""

    base: FilePath
    """The finished run that is extended; it stays where it is."""
    distillation: NonNegativeFloat = 1.0
    """Weight of learning without forgetting (Li and Hoiem 2016): old logits stay near the base's on
    every image; 0 is off."""
    temperature: PositiveFloat = 2.0
    """Temperature of the distillation."""
    ewc: NonNegativeFloat = 0.0
    """Strength of elastic weight consolidation (Kirkpatrick et al. 2017): weights that the answers
    to remembered images hang on are held; 0 is off."""
    memory: NonNegativeInt = 200
    """Training images that are remembered, over all classes, chosen by herding (Rebuffi et al.
    2017)."""
    replay: bool = True
    """Whether the images that the base remembers are trained on; else they serve ewc alone. With
    data.balance: sampling they come as often as new ones, however few they are."""
    held_out: NonNegativeInt = 50
    """Validation and test images, of each, that are kept of every class; never trained on."""
    head: Literal["linear", "cosine"] = "linear"
    """cosine: logits are scaled cosines, so that no class wins by longer weights (Hou et al.
    2019)."""
    correction: Literal["none", "weight_align", "bias"] = "none"
    """What is done to the new logits when training ends: weight_align scales them so that old and
    new columns are equally long (Zhao et al. 2020); bias fits a factor and an offset on validation
    images (Wu et al. 2019)."""


class IncrementalConfig(Config):
    """More classes, or more images, for a finished run."""

    task: Literal["incremental"]
    incremental: IncrementalSection
