"""A backbone's frozen features for heads that are fitted on few examples."""

from __future__ import annotations

import keras

from ftkeras.backbones import Backbone
from ftkeras.backbones.preprocessing import RAW, preprocess
from ftkeras.errors import UserError


def unit_features(backbone: Backbone, stages: int = 1) -> keras.Model:
    """Returns a model from raw images to pooled features of one length.

    The maps at the ends of the last resolutions are averaged over their places, brought to length 1
    each, and put side by side: earlier ones know what the last has thrown away (Evci et al. 2022,
    "Head2Toe").

    Args:
        backbone: What `load_backbone` returned; its layers are shared.
        stages: From how many resolutions, the last one among them.

    Returns:
        From float32 images (batch, size, size, 3) with values 0..255 in RGB order to float32
        features (batch, channels), whose length is the root of `stages`.

    Raises:
        UserError: The backbone has fewer resolutions.
    """
    check_stages(backbone, stages)
    raw = keras.Input(backbone.model.input_shape[1:], name=RAW, dtype="float32")
    inner = keras.Model(
        backbone.model.inputs, stage_ends(backbone)[-stages:], name=backbone.model.name
    )
    maps = inner(preprocess(raw, backbone.preprocessing))
    parts = []
    for number, features in enumerate(maps if isinstance(maps, list) else [maps], start=1):
        pooled = keras.layers.GlobalAveragePooling2D(name=f"head_pool_{number}", dtype="float32")(
            features
        )  # (batch, channels)
        unit = keras.layers.UnitNormalization(name=f"head_unit_{number}", dtype="float32")
        parts.append(unit(pooled))
    if len(parts) > 1:
        parts = [keras.layers.Concatenate(name="head_pool", dtype="float32")(parts)]
    return keras.Model(raw, parts[0], name="features")


def check_stages(backbone: Backbone, stages: int) -> None:
    """Raises UserError if the backbone has fewer resolutions."""
    there = len(stage_ends(backbone))
    if not there:
        raise UserError(
            f"task few_shot: {backbone.name} has no feature maps, which it takes. Take another "
            "backbone, or the task classification."
        )
    if stages > there:
        raise UserError(
            f"few_shot.stages: {backbone.name} has feature maps of {there} resolutions, fewer "
            f"than {stages}."
        )


def stage_ends(backbone: Backbone) -> list[keras.KerasTensor]:
    """Returns, of each resolution, the last map (batch, height, width, channels) between blocks."""
    starts = [block.layers[0] for block in backbone.blocks[1:] if block.layers]
    tensors = [layer.input for layer in starts if isinstance(layer.input, keras.KerasTensor)]
    ends: dict[tuple[int, ...], keras.KerasTensor] = {}
    for tensor in [*tensors, backbone.model.output]:
        if len(tensor.shape) == 4:
            ends.pop(tuple(tensor.shape[1:3]), None)  # so that the order is that of the last ones
            ends[tuple(tensor.shape[1:3])] = tensor
    return list(ends.values())
