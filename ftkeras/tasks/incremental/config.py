"""The sections of a config that only the task `incremental` has."""

from __future__ import annotations

from typing import Literal

from ftkeras.config.fields import FilePath, NonNegativeFloat, NonNegativeInt, PositiveFloat, Section
from ftkeras.config.schema import Config


class IncrementalSection(Section):
    """How new classes or images are learned without forgetting the old."""

    base: FilePath
    """The finished run to extend; it is not changed."""
    distillation: NonNegativeFloat = 1.0
    """Weight of learning without forgetting (Li and Hoiem 2016), which keeps old logits near the
    base's; 0 is off."""
    temperature: PositiveFloat = 2.0
    """Temperature of the distillation."""
    ewc: NonNegativeFloat = 0.0
    """Strength of elastic weight consolidation (Kirkpatrick et al. 2017), which holds the weights
    that matter for remembered images; 0 is off."""
    memory: NonNegativeInt = 200
    """How many training images are remembered, over all classes; herding chooses them (Rebuffi et
    al. 2017)."""
    replay: bool = True
    """Whether the images that the base remembers are trained on; otherwise only ewc uses them. With
    data.balance: sampling they are drawn as often as new ones, however few they are."""
    held_out: NonNegativeInt = 50
    """How many validation images and how many test images are kept of every class; never trained
    on."""
    head: Literal["linear", "cosine"] = "linear"
    """cosine: logits are scaled cosines, so that longer weights favour no class (Hou et al.
    2019)."""
    correction: Literal["none", "weight_align", "bias"] = "none"
    """How the new logits are corrected when training ends. weight_align scales them so that old and
    new columns are equally long (Zhao et al. 2020). bias fits a factor and an offset on validation
    images (Wu et al. 2019)."""


class IncrementalConfig(Config):
    """More classes, or more images, for a finished run."""

    task: Literal["incremental"]
    incremental: IncrementalSection
