"""The section `data.input` with the kind image. Imports no TensorFlow."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ftkeras.config.fields import InputSection, NonNegativeFloat, Section, Side, Strength


class AugmentationLayer(Section):
    """One image augmentation layer of `keras.layers`, or `keras_cv/NAME`."""

    name: str
    """For example RandAugment, RandomErasing, AugMix, or keras_cv/GridMask."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments for the layer's constructor."""


class MixConfig(Section):
    """Batch-level mixing of images and labels."""

    mixup: NonNegativeFloat = 0.0
    """Alpha of MixUp's beta distribution (Zhang et al. 2018); 0 is off."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of CutMix's beta distribution (Yun et al. 2019); 0 is off."""


class ImageConfig(InputSection):
    """Each example is an image."""

    kind: Literal["image"] = "image"
    """The kind of input; may be left out for images."""
    size: Side | None = None
    """Side of the square model input, in pixels; default: the backbone's natural size."""
    resize: Literal["crop", "pad", "squash"] = "crop"
    """How an image becomes square: centre crop, pad with black, or change the aspect ratio."""
    augmentation: Strength | list[AugmentationLayer] = "light"
    """A strength, or a list of layers that replaces it."""
    mix: MixConfig = MixConfig()
    """MixUp and CutMix; if both are on, each batch uses one of them."""
