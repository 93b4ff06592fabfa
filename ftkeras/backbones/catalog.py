"""Every Keras Applications backbone, in one table. Nothing here imports TensorFlow.

A family defines how its images are prepared and how its layers form blocks. A block is the unit
that the architecture repeats: a residual or inverted residual unit, an inception block, a NASNet
cell. VGG and Xception have their own numbered blocks, and DenseNet's are its dense blocks.
Three rules hold for all:

- Layers before the first unit are the block `stem`.
- Layers after the last unit (a final convolution, a final norm) belong to it. So `blocks[-4:]` of
  MobileNetV2 is the last four inverted residuals with the convolution after them, and
  `blocks[-1:]` is never a single batch norm.
- A projection on a skip connection belongs to its unit. Layers that lower the resolution belong to
  the unit after them, except for a DenseNet transition, which belongs to the dense block before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftkeras.backbones.text.catalog import TEXT_CATALOG
from ftkeras.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Family:
    """Architectures that share preprocessing and the naming of their layers.

    Args:
        paper: The paper of the architecture.
        preprocessing: none (the model scales inside), tf (-1..1), torch (mean and deviation of
            ImageNet) or caffe (BGR, mean of ImageNet).
        smallest_size: The smallest side that Keras accepts, in pixels.
        begins: Pairs (pattern, name): a weighted layer whose name matches begins, or belongs
            to, the named block. A layer that matches none belongs to the block before it. A `#` in
            a name is replaced by the number of the block among those of that name.
        ends: Pairs of the same form, for families whose layers inside a block have automatic
            names: a layer whose name matches is the last of its block.
        stem: With `ends`: how many weighted layers come before the first block.
    """

    paper: str
    preprocessing: str
    smallest_size: int = 32
    begins: tuple[tuple[str, str], ...] = ()
    ends: tuple[tuple[str, str], ...] = ()
    stem: int = 0


@dataclass(frozen=True)
class Entry:
    """One backbone.

    Args:
        name: Also the name of its builder in `keras.applications`.
        family: Its family.
        natural_size: The side in pixels that its ImageNet weights were trained at.
        parameters: The number of weights of the model without top.
        blocks: The number of its blocks.
        layers: The last digest of its layers; see `blocks.layer_digests`.
    """

    name: str
    family: Family
    natural_size: int
    parameters: int
    blocks: int
    layers: str


CONVNEXT = Family(
    paper="Liu et al. 2022, A ConvNet for the 2020s",
    preprocessing="none",
    begins=(
        (r".*_downsampling_\w+_0$", "stage_1_block_0"),
        (r".*_downsampling_\w+_1$", "stage_2_block_0"),
        (r".*_downsampling_\w+_2$", "stage_3_block_0"),
        (r".*_(stage_\d_block_\d+)_", r"\1"),
    ),
)
DENSENET = Family(
    paper="Huang et al. 2017, Densely Connected Convolutional Networks",
    preprocessing="torch",
    begins=((r"(conv\d)_block\d+_", r"\1"),),
)
EFFICIENTNET = Family(
    paper="Tan and Le 2019, EfficientNet: Rethinking Model Scaling for CNNs",
    preprocessing="none",
    begins=((r"(block\d[a-z])_", r"\1"),),
)
EFFICIENTNET_V2 = Family(
    paper="Tan and Le 2021, EfficientNetV2: Smaller Models and Faster Training",
    preprocessing="none",
    begins=((r"(block\d[a-z]+)_", r"\1"),),
)
INCEPTION_V3 = Family(
    paper="Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision",
    preprocessing="tf",
    smallest_size=75,
    ends=((r"(mixed\d+)$", r"\1"),),
    stem=10,  # five convolutions, each with batch norm
)
INCEPTION_RESNET = Family(
    paper="Szegedy et al. 2017, Inception-v4, Inception-ResNet and the Impact of Residual ...",
    preprocessing="tf",
    smallest_size=75,
    ends=((r"(mixed_\d[ab])$", r"\1"), (r"(block\d+_\d+)_conv$", r"\1")),
    stem=10,
)
MOBILENET = Family(
    paper="Howard et al. 2017, MobileNets: Efficient Convolutional Neural Networks ...",
    preprocessing="tf",
    begins=((r"conv_[dp]w_(\d+)", r"block_\1"),),
)
MOBILENET_V2 = Family(
    paper="Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    preprocessing="tf",
    begins=((r"expanded_conv_", "block_0"), (r"(block_\d+)_", r"\1")),
)
MOBILENET_V3 = Family(
    paper="Howard et al. 2019, Searching for MobileNetV3",
    preprocessing="none",
    begins=((r"expanded_conv_(\d+)_", r"block_\1"), (r"expanded_conv_", "block_0")),
)
NASNET = Family(
    paper="Zoph et al. 2018, Learning Transferable Architectures for Scalable Image Recognition",
    preprocessing="tf",
    begins=((r".*_((?:stem|reduce)_\d+)$", r"\1"), (r".*_(\d+)$", r"cell_\1")),
)
RESNET = Family(
    paper="He et al. 2016, Deep Residual Learning for Image Recognition",
    preprocessing="caffe",
    begins=((r"(conv\d_block\d+)_", r"\1"),),
)
RESNET_V2 = Family(
    paper="He et al. 2016, Identity Mappings in Deep Residual Networks",
    preprocessing="tf",
    begins=((r"(conv\d_block\d+)_", r"\1"),),
)
VGG = Family(
    paper="Simonyan and Zisserman 2015, Very Deep Convolutional Networks ...",
    preprocessing="caffe",
    begins=((r"(block\d)_", r"\1"),),
)
XCEPTION = Family(
    paper="Chollet 2017, Xception: Deep Learning with Depthwise Separable Convolutions",
    preprocessing="tf",
    smallest_size=71,
    begins=((r"(block\d+)_", r"\1"),),
)

_ENTRIES = (
    #      name, family, natural size, parameters, blocks, layers
    Entry("ConvNeXtTiny", CONVNEXT, 224, 27_820_128, 19, "18ce8aed"),
    Entry("ConvNeXtSmall", CONVNEXT, 224, 49_454_688, 37, "2ac34d09"),
    Entry("ConvNeXtBase", CONVNEXT, 224, 87_566_464, 37, "518268bb"),
    Entry("ConvNeXtLarge", CONVNEXT, 224, 196_230_336, 37, "8e061901"),
    Entry("ConvNeXtXLarge", CONVNEXT, 224, 348_147_968, 37, "1f61d53e"),
    Entry("DenseNet121", DENSENET, 224, 7_037_504, 5, "eb00874e"),
    Entry("DenseNet169", DENSENET, 224, 12_642_880, 5, "b3b2458a"),
    Entry("DenseNet201", DENSENET, 224, 18_321_984, 5, "e0c194b3"),
    Entry("EfficientNetB0", EFFICIENTNET, 224, 4_049_571, 17, "2dd8a90a"),
    Entry("EfficientNetB1", EFFICIENTNET, 240, 6_575_239, 24, "35089c30"),
    Entry("EfficientNetB2", EFFICIENTNET, 260, 7_768_569, 24, "35089c30"),
    Entry("EfficientNetB3", EFFICIENTNET, 300, 10_783_535, 27, "46d2c129"),
    Entry("EfficientNetB4", EFFICIENTNET, 380, 17_673_823, 33, "02da0b79"),
    Entry("EfficientNetB5", EFFICIENTNET, 456, 28_513_527, 40, "166cfccb"),
    Entry("EfficientNetB6", EFFICIENTNET, 528, 40_960_143, 46, "b6dd74b3"),
    Entry("EfficientNetB7", EFFICIENTNET, 600, 64_097_687, 56, "d118a947"),
    Entry("EfficientNetV2B0", EFFICIENTNET_V2, 224, 5_919_312, 22, "ca431f9c"),
    Entry("EfficientNetV2B1", EFFICIENTNET_V2, 240, 6_931_124, 28, "b36a3a01"),
    Entry("EfficientNetV2B2", EFFICIENTNET_V2, 260, 8_769_374, 29, "083af975"),
    Entry("EfficientNetV2B3", EFFICIENTNET_V2, 300, 12_930_622, 33, "e970d100"),
    Entry("EfficientNetV2S", EFFICIENTNET_V2, 384, 20_331_360, 41, "08fb25ff"),
    Entry("EfficientNetV2M", EFFICIENTNET_V2, 480, 53_150_388, 58, "2bcb2534"),
    Entry("EfficientNetV2L", EFFICIENTNET_V2, 480, 117_746_848, 80, "cdccad78"),
    Entry("InceptionResNetV2", INCEPTION_RESNET, 299, 54_336_736, 44, "85d34fde"),
    Entry("InceptionV3", INCEPTION_V3, 299, 21_802_784, 12, "aa99a520"),
    Entry("MobileNet", MOBILENET, 224, 3_228_864, 14, "54403563"),
    Entry("MobileNetV2", MOBILENET_V2, 224, 2_257_984, 18, "cd49cb26"),
    Entry("MobileNetV3Small", MOBILENET_V3, 224, 939_120, 12, "90fa7f49"),
    Entry("MobileNetV3Large", MOBILENET_V3, 224, 2_996_352, 16, "a9c426e9"),
    Entry("NASNetMobile", NASNET, 224, 4_269_716, 17, "c1e3c9c6"),
    Entry("NASNetLarge", NASNET, 331, 84_916_818, 23, "b6e8eeb8"),
    Entry("ResNet50", RESNET, 224, 23_587_712, 17, "b30f364f"),
    Entry("ResNet101", RESNET, 224, 42_658_176, 34, "d8f301c1"),
    Entry("ResNet152", RESNET, 224, 58_370_944, 51, "84d917cf"),
    Entry("ResNet50V2", RESNET_V2, 224, 23_564_800, 17, "05b36b99"),
    Entry("ResNet101V2", RESNET_V2, 224, 42_626_560, 34, "8025b20a"),
    Entry("ResNet152V2", RESNET_V2, 224, 58_331_648, 51, "f5574973"),
    Entry("VGG16", VGG, 224, 14_714_688, 5, "85c26373"),
    Entry("VGG19", VGG, 224, 20_024_384, 5, "7530ee36"),
    Entry("Xception", XCEPTION, 299, 20_861_480, 14, "66efa7cb"),
)

CATALOG: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}

HEADER = ("name", "parameters (M)", "natural size", "smallest size", "blocks", "preprocessing")


def no_backbone(name: str, kind: str | None) -> UserError:
    """Returns the error about a name that is no backbone; it has every way to name one.

    Args:
        name: The name.
        kind: The kind of the examples, "text" or "image"; None if nothing decides it.

    Example:
        >>> str(no_backbone("resnet5O", "image"))[:78]
        "backbone.name: there is no backbone 'resnet5O' for images. Did you mean 'ResNe"
    """
    known = {"text": [*TEXT_CATALOG], "image": [*CATALOG], None: [*CATALOG, *TEXT_CATALOG]}[kind]
    if "/" in name:
        wrong = f"there is no folder {name!r}."
    else:
        wrong = f"there is no backbone {name!r}{f' for {kind}s' if kind else ''}."
        wrong += did_you_mean(name, known)
    own = f" ({', '.join(TEXT_CATALOG)})" if kind == "text" else ""
    return UserError(
        f"backbone.name: {wrong} Choose a name that `ftkeras backbones` lists{own}, "
        "keras_hub/PRESET, hf://OWNER/NAME, a local folder with a config.json, or a .keras file."
    )


def find(name: str) -> Entry:
    """Returns the entry of that name.

    Raises:
        UserError: There is none; the message has the nearest name.

    Example:
        >>> find("ResNet50").family.preprocessing
        'caffe'
    """
    if name not in CATALOG:
        raise no_backbone(name, "image")
    return CATALOG[name]


def describe() -> list[tuple[object, ...]]:
    """Returns one row per backbone, in the order of `HEADER`, for `ftkeras.console.table`."""
    return [
        (
            entry.name,
            round(entry.parameters / 1e6, 1),
            entry.natural_size,
            entry.family.smallest_size,
            entry.blocks,
            entry.family.preprocessing,
        )
        for entry in _ENTRIES
    ]
