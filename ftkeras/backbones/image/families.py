"""The families of keras-hub's image backbones, in one table. Nothing here imports TensorFlow.

Blocks follow the rules of `ftkeras.backbones.catalog`. A block is a residual unit or a transformer
layer. Layers before the first one are `stem`, and a final norm belongs to the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftkeras.backbones.catalog import DENSENET, EFFICIENTNET, VGG, XCEPTION, Family
from ftkeras.errors import UserError


@dataclass(frozen=True)
class HubFamily:
    """One class of keras-hub.

    Args:
        name: Its usual name.
        gives: The kind of its features; see `Backbone.gives`.
        sizes: The sizes of images that it takes, in words.
        converted: The local folders of Hugging Face and timm that keras-hub converts, by
            `model_type` or architecture; empty if none.
        blocks: The paper, and the names of its layers.
        front: How many steps of a sequence come before those of the patches: the class token, and
            others. The value of a named attribute is added.
    """

    name: str
    gives: str
    sizes: str
    converted: str
    blocks: Family
    front: tuple[int | str, ...] = ()


def _family(paper: str, *begins: tuple[str, str]) -> Family:
    return Family(paper=paper, preprocessing="none", begins=begins)


_ONE, _PATCHES, _ANY = "its own", "multiples of its patch", "any"
_STACKED = (r".*/(transformer_block_\d+)$", r"\1")
_LISTED = (r"(?:.*_)?(encoder_block_\d+)$", r"\1")
_NUMBERED = (r".*/(layers_\d+)$", r"\1")
_UNITS = (r"(block_\d+_\d+)$", r"\1")

_CLIP = "Radford et al. 2021, Learning Transferable Visual Models From Natural Language ..."

FAMILIES = {
    "ViTBackbone": HubFamily(
        "ViT",
        "sequence",
        _ONE,
        "vit",
        _family("Dosovitskiy et al. 2021, An Image is Worth 16x16 Words", _STACKED),
        ("use_class_token",),
    ),
    "DeiTBackbone": HubFamily(
        "DeiT",
        "sequence",
        _ONE,
        "deit",
        _family("Touvron et al. 2021, Training data-efficient image transformers", _STACKED),
        (2,),  # class and distillation
    ),
    "DINOV2Backbone": HubFamily(
        "DINOv2",
        "sequence",
        _PATCHES,
        "dinov2, dinov2_with_registers",
        _family("Oquab et al. 2024, DINOv2: Learning Robust Visual Features ...", _NUMBERED),
        (1, "num_register_tokens"),
    ),
    "DINOV3Backbone": HubFamily(
        "DINOv3",
        "sequence",
        _PATCHES,
        "dinov3_vit",
        _family("Siméoni et al. 2025, DINOv3", _NUMBERED),
        (1, "num_register_tokens"),
    ),
    "SigLIPVisionEncoder": HubFamily(
        "SigLIP",
        "vector",
        _ONE,
        "",
        _family("Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training", _LISTED),
    ),
    "CLIPVisionEncoder": HubFamily("CLIP", "sequence", _ONE, "", _family(_CLIP, _LISTED), (1,)),
    "MetaCLIP2VisionEncoder": HubFamily(
        "MetaCLIP 2",
        "sequence",
        _ONE,
        "",
        _family("Chuang et al. 2025, MetaCLIP 2: A Worldwide Scaling Recipe", _LISTED),
        (1,),
    ),
    "SwinTransformerBackbone": HubFamily(
        "Swin",
        "sequence",
        "multiples of 32",
        "swin",
        _family(
            "Liu et al. 2021, Swin Transformer: Hierarchical Vision Transformer ...",
            *((rf"stage_{n}/downsample$", f"stage_{n + 1}_block_0") for n in range(3)),
            (r"stage_(\d)/blocks_(\d+)$", r"stage_\1_block_\2"),
        ),
    ),
    "MiTBackbone": HubFamily(
        "MiT",
        "map",
        _ANY,
        "",
        _family(
            "Xie et al. 2021, SegFormer: Simple and Efficient Design ...",
            (r"patch_and_embed_([1-9])$", r"stage_\1_block_0"),
            (r"hierarchical_encoder_(\d)_(\d+)$", r"stage_\1_block_\2"),
        ),
    ),
    "HGNetV2Backbone": HubFamily(
        "HGNetV2",
        "map",
        _ANY,
        "timm: hgnetv2",
        _family(
            "Cui et al. 2021, Beyond Self-Supervision (the successor of its PP-HGNet)",
            (r".*_stage_(\d)_downsample$", r"stage_\1_block_0"),
            (r".*_(stage_\d_block_\d+)$", r"\1"),
        ),
    ),
    "ResNetBackbone": HubFamily(
        "ResNet, ResNetV2, ResNet-vd",
        "map",
        _ANY,
        "timm: resnet",
        _family(
            "He et al. 2016, Deep Residual Learning for Image Recognition",
            (r"(stack\d_block\d+)_", r"\1"),
        ),
    ),
    "CSPNetBackbone": HubFamily(
        "CSPNet, DarkNet",
        "map",
        _ANY,
        "timm: cspnet",
        _family(
            "Wang et al. 2020, CSPNet: A New Backbone that can Enhance Learning ...",
            (r"(stage_\d)_", r"\1"),  # its skip connections span a whole stage
        ),
    ),
    "DenseNetBackbone": HubFamily(
        "DenseNet",
        "map",
        _ANY,
        "timm: densenet",
        _family(DENSENET.paper, (r"(stack\d)_", r"\1")),
    ),
    "EfficientNetBackbone": HubFamily(
        "EfficientNet, -V2, -Lite",
        "map",
        _ANY,
        "timm: efficientnet",
        _family(EFFICIENTNET.paper, *EFFICIENTNET.begins),
    ),
    "MobileNetBackbone": HubFamily(
        "MobileNetV3, V4",
        "map",
        _ANY,
        "timm: mobilenet",
        _family("Qin et al. 2024, MobileNetV4: Universal Models for the Mobile Ecosystem", _UNITS),
    ),
    "MobileNetV5Backbone": HubFamily(
        "MobileNetV5",
        "map",
        _ANY,
        "timm: mobilenetv5",
        _family(
            "Gemma Team 2025, Gemma 3n (its vision encoder)",
            (
                r"(?:edge_residual|universal_inverted_residual|mobile_attention)(?:_\d+)?$",
                "block_#",
            ),
        ),
    ),
    "VGGBackbone": HubFamily("VGG", "map", _ANY, "timm: vgg", _family(VGG.paper, *VGG.begins)),
    "XceptionBackbone": HubFamily(
        "Xception", "map", _ANY, "", _family(XCEPTION.paper, *XCEPTION.begins)
    ),
}
"""By the class of keras-hub."""

ENCODERS = {
    "CLIPBackbone": "vision_encoder",
    "MetaCLIP2Backbone": "vision_encoder",
    "SigLIPBackbone": "vision_encoder",
}
"""The image part of models that also read texts."""

_OTHERS = {
    "BASNetBackbone": "segments images",
    "DeepLabV3Backbone": "segments images",
    "SegFormerBackbone": "segments images",
    "SAMBackbone": "segments what a prompt points at",
    "SAM3PromptableConceptBackbone": "segments what a prompt points at",
    "ViTDetBackbone": "encodes images for SAM",
    "DFineBackbone": "detects objects",
    "RetinaNetBackbone": "detects objects",
    "DepthAnythingBackbone": "measures depth",
    "FluxBackbone": "makes images",
    "StableDiffusion3Backbone": "makes images",
    "VAEBackbone": "makes images",
    "PARSeqBackbone": "reads letters",
    "VideoPrismBackbone": "reads videos",
}

HUB_HEADER = ("keras-hub family", "gives", "image sizes", "converted folders")


def family_of(kind: str, name: str) -> HubFamily:
    """Returns the family of a class of keras-hub.

    Args:
        kind: The class's name.
        name: The backbone's name, for the message.

    Raises:
        UserError: It is no backbone for a classifier of images.

    Example:
        >>> family_of("ViTBackbone", "vit").gives
        'sequence'
    """
    kind = ENCODERS.get(kind, "") and kind.replace("Backbone", "VisionEncoder") or kind
    if kind not in FAMILIES:
        does = f", which {_OTHERS[kind]}" if kind in _OTHERS else ""
        known = ", ".join(family.name for family in FAMILIES.values())
        raise UserError(
            f"backbone.name: {name} is a {kind}{does}; a classifier of images needs one of {known}."
        )
    return FAMILIES[kind]


def describe_hub() -> list[tuple[object, ...]]:
    """Returns one row per family, in the order of `HUB_HEADER`, for `ftkeras.console.table`."""
    return [
        (family.name, family.gives, family.sizes, family.converted or "-")
        for family in FAMILIES.values()
    ]
