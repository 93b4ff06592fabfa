"""A backbone's frozen features for heads that are fitted on few examples."""

from __future__ import annotations

import keras

from ftkeras.backbones import Backbone
from ftkeras.backbones.preprocessing import RAW, preprocess
from ftkeras.errors import UserError
from ftkeras.model.assemble import backbone_features
from ftkeras.model.pooling import pool

USUAL_STAGES = 2


def unit_features(backbone: Backbone, stages: int | None = None) -> keras.Model:
    """Returns a model from raw examples to pooled features of one length.

    The maps at the ends of the last resolutions are averaged over their positions, scaled to length
    1 each, and concatenated. Earlier maps hold what the last has lost (Evci et al. 2022,
    "Head2Toe"). If a backbone gives a sequence or a vector, its features are pooled as in a head,
    and scaled to length 1.

    Args:
        backbone: What `load_backbone` returned; its layers are shared.
        stages: How many of the last resolutions; None for two, if there are two.

    Returns:
        From float32 images (batch, size, size, 3) with values 0..255 in RGB order, or what the
        backbone takes, to float32 features (batch, channels) of length `sqrt(stages)`.

    Raises:
        UserError: The backbone has fewer resolutions.
    """
    count = check_stages(backbone, stages)
    if backbone.gives != "map":
        inputs, features, mask = backbone_features(backbone)
        unit = keras.layers.UnitNormalization(name="head_unit", dtype="float32")
        return keras.Model(
            inputs, unit(pool(features, mask=mask, front=backbone.front)), name="features"
        )
    raw = keras.Input(backbone.model.input_shape[1:], name=RAW, dtype="float32")
    inner = keras.Model(
        backbone.model.inputs, stage_ends(backbone)[-count:], name=backbone.model.name
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


def check_stages(backbone: Backbone, stages: int | None) -> int:
    """Returns the number of resolutions; raises UserError if there are fewer."""
    if backbone.gives != "map":
        if stages is not None:
            raise UserError(
                f"few_shot.stages: {backbone.name} gives a {backbone.gives}, which has no "
                "resolutions. Leave it out."
            )
        return 1
    there = len(stage_ends(backbone))
    if stages is None:
        return min(USUAL_STAGES, there)
    if stages > there:
        raise UserError(
            f"few_shot.stages: {backbone.name} has feature maps of {there} resolutions, fewer "
            f"than {stages}."
        )
    return stages


def stage_ends(backbone: Backbone) -> list[keras.KerasTensor]:
    """Returns the last map (batch, height, width, channels) between blocks of each resolution."""
    own = {id(layer) for layer in backbone.model.layers}  # none inside a nested model or layer
    starts = [x for block in backbone.blocks[1:] for x in block.layers[:1] if id(x) in own]
    tensors = [layer.input for layer in starts if isinstance(layer.input, keras.KerasTensor)]
    ends: dict[tuple[int, ...], keras.KerasTensor] = {}
    for tensor in [*tensors, backbone.model.output]:
        if len(tensor.shape) == 4:
            ends.pop(tuple(tensor.shape[1:3]), None)  # keeps the order of the last maps
            ends[tuple(tensor.shape[1:3])] = tensor
    return list(ends.values())
