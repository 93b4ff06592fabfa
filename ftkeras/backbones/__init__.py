"""Backbones: the catalog, how they are built, and which layers make up their blocks."""

from __future__ import annotations

from ftkeras.backbones import hub
from ftkeras.backbones.backbone import Backbone, Block
from ftkeras.backbones.catalog import CATALOG, HEADER, describe, find

__all__ = ["CATALOG", "HEADER", "Backbone", "Block", "describe", "find", "load_backbone"]


def load_backbone(
    name: str,
    *,
    weights: str = "imagenet",
    image_size: int | None = None,
    cut: str | None = None,
) -> Backbone:
    """Builds a backbone and loads its weights.

    Args:
        name: A name of the catalog, the path of a `.keras` file, or a model of keras-hub:
            `keras_hub/PRESET`, `hf://OWNER/MODEL`, or a local folder.
        weights: `imagenet` (Keras downloads them; other models keep their own), `starter`
            (MobileNetV2's, shipped with ftkeras), `none`, or the path of a file.
        image_size: Side of the input in pixels; the natural size by default.
        cut: The name of the layer whose output is the backbone's; by default the last one with a
            feature map.

    Raises:
        UserError: The name, the size, the cut or the weights cannot work; the message says why.

    Example:
        >>> load_backbone("MobileNetV2", weights="none", image_size=96).blocks[-1].name
        'block_16'
    """
    # Imported here, so that the command line reads the catalog without importing TensorFlow.
    if name.endswith(".keras"):
        from ftkeras.backbones import saved

        return saved.load(name, weights=weights, image_size=image_size, cut=cut)
    if hub.is_hub(name):
        from ftkeras.backbones.image import hub as image_hub

        found = hub.find(name, "image")
        return image_hub.load(found, weights=weights, image_size=image_size, cut=cut)
    from ftkeras.backbones import applications

    return applications.load(find(name), weights=weights, image_size=image_size, cut=cut)
