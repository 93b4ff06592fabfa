"""Image backbones of keras-hub, with the preprocessing that their weights expect."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ftkeras.backbones import blocks
from ftkeras.backbones.backbone import Backbone
from ftkeras.backbones.hub import HubModel
from ftkeras.backbones.image.families import ENCODERS, HubFamily, family_of
from ftkeras.errors import UserError, did_you_mean, first_line
from ftkeras.keras_internals import own_variables

_USUAL = 224  # px, for a network that takes any size, if its training size is unknown
_SMALLEST = 32  # px, for such a network
_POSITIONS = "interpolated_position_embeddings"


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The preprocessing that the weights expect.

    Args:
        scale: The factor of pixels 0..255, one number or one per channel.
        offset: The number that is added afterwards.
        size: The side of the images in pixels; None if it is unknown.
    """

    scale: float | Sequence[float]
    offset: float | Sequence[float]
    size: int | None


def load(found: HubModel, *, weights: str, image_size: int | None, cut: str | None) -> Backbone:
    """Loads an image backbone of keras-hub.

    From a model for images and texts, such as CLIP, it takes the image part. Preprocessing is
    the first layer of the returned model.

    Args:
        found: The model; see `ftkeras.backbones.hub.find`.
        weights: imagenet for its own, on whatever data they were trained, or none for random ones.
        image_size: Side of the input in pixels; None for the one that the weights were trained at.
        cut: The name of the layer whose output becomes the backbone's; None for the last one.

    Raises:
        UserError: It is no backbone for a classifier, it cannot take the size, the scaling of
            pixels is unknown, or there is no such layer.
    """
    if weights not in ("imagenet", "none"):
        raise UserError(
            f"backbone.weights: {found.name} has weights of its own. Leave it out, or take none "
            "for random ones."
        )
    if "class_name" in found.config:  # checked before large weights are read
        family_of(str(found.config["class_name"]), found.name)
    pixels = _pixels(found)
    with warnings.catch_warnings():
        # Keras warns about the masks that Swin passes to its layers.
        warnings.filterwarnings("ignore", message="Layer '.*' .* was passed an input with a mask")
        options = _left_out(found) if found.is_converted else {}
        backbone = found.hub.models.Backbone
        encoder = found.load(backbone, load_weights=weights != "none", **options)
        encoder = getattr(encoder, ENCODERS.get(type(encoder).__name__, ""), encoder)
        family = family_of(type(encoder).__name__, found.name)
        natural = _natural_size(encoder, found.name) or pixels.size or _USUAL
        size = image_size or natural
        encoder = _sized(encoder, size, found.name, keep=weights != "none")
        _fix_positions(encoder)
        if cut is not None:
            encoder = _cut(encoder, cut, found.name)
        model = _with_pixels(encoder, family, pixels, size, found.name)
    sizes = [encoder.inputs[0].shape[1], size]
    return Backbone(
        name=found.name,
        model=model,
        preprocessing="none",
        natural_size=natural,
        smallest_size=min([_SMALLEST, *filter(None, sizes)]),
        blocks=blocks.find_blocks(model, family.blocks),
        front=_front(encoder, family) if len(model.output.shape) == 3 else 0,
    )


def _left_out(found: HubModel) -> dict[str, Any]:
    """Returns the settings of Hugging Face's config.json that keras-hub's converters ignore."""
    kind, activation = found.config["model_type"], found.config.get("hidden_act", "gelu")
    if activation != "gelu" and kind != "dinov3_vit":  # the latter's converter reads it
        raise UserError(
            f"backbone.name: {found.name} has the activation {activation}; for a {kind} keras-hub "
            "converts only gelu."
        )
    epsilon = float(found.config.get("layer_norm_eps", 1e-12))
    return {"layer_norm_epsilon": epsilon} if kind == "vit" else {}


def _pixels(found: HubModel) -> Pixels:
    if found.is_converted:
        return _in_words_of_hugging_face(found)
    converter = None
    if found.json("image_converter.json") or "pretrained_cfg" in found.config:
        converter = found.load(found.hub.layers.ImageConverter)
    if converter is None:
        raise _unknown(found, "image_converter.json")
    size = converter.image_size or (None,)
    return Pixels(_or(converter.scale, 1.0), _or(converter.offset, 0.0), size[0])


def _in_words_of_hugging_face(found: HubModel) -> Pixels:
    says = found.json("preprocessor_config.json")
    if not says:
        raise _unknown(found, "preprocessor_config.json")
    try:
        factor = float(says.get("rescale_factor", 1 / 255)) if says.get("do_rescale", True) else 1.0
        mean, deviation = [0.0], [1.0]
        if says.get("do_normalize", True):
            mean = [float(x) for x in says["image_mean"]]
            deviation = [float(x) for x in says["image_std"]]
        scale = [factor / d for d in deviation]
        offset = [-m / d for m, d in zip(mean, deviation, strict=True)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"backbone.name: preprocessor_config.json of {found.name} does not say how pixels are "
            f"scaled: {type(error).__name__}, {first_line(error)}."
        ) from error
    size = says.get("crop_size") if says.get("do_center_crop") else None
    size = size or says.get("size")
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return Pixels(scale, offset, size if isinstance(size, int) else None)


def _unknown(found: HubModel, file: str) -> UserError:
    return UserError(
        f"backbone.name: {found.name} has no {file}, so nothing says how pixels are scaled. Put "
        "the file that belongs to the weights into the folder."
    )


def _or(value: Any, default: float) -> Any:
    return default if value is None else value


def _natural_size(encoder: keras.Model, name: str) -> int | None:
    """Returns the side of the images that a model was built for; None if it takes any."""
    height, width, channels = encoder.inputs[0].shape[1:]
    if channels != 3 or height != width:
        raise UserError(
            f"backbone.name: {name} takes images {(height, width, channels)}; a backbone takes "
            "square ones with three channels, the last axis."
        )
    return height


def _sized(encoder: keras.Model, size: int, name: str, *, keep: bool) -> keras.Model:
    """Returns the model for images of a size, with the same weights if they are to be kept."""
    own = encoder.inputs[0].shape[1]
    if own in (None, size):
        return encoder
    config = {**encoder.get_config(), "image_shape": (size, size, 3)}
    try:
        new = type(encoder).from_config(config)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"data.input.size: {name} cannot take images of {size} px: {first_line(error)}"
        ) from error
    for old, layer in zip(encoder.layers, new.layers, strict=True) if keep else ():
        if hasattr(layer, _POSITIONS):  # DINOv2 computes them from those of the usual size
            own_variables_of = [*own_variables(old)[0], *own_variables(old)[1]]
            layer.load_own_variables({str(i): x.numpy() for i, x in enumerate(own_variables_of)})
            layer.patch_embeddings.set_weights(old.patch_embeddings.get_weights())
        elif [x.shape for x in old.weights] == [x.shape for x in layer.weights]:
            layer.set_weights(old.get_weights())
        else:
            raise UserError(
                f"data.input.size: {name} takes only images of {own} px: its weights hold one "
                "position for each patch. Leave the size out."
            )
    return new


def _fix_positions(encoder: keras.Model) -> None:
    """Freezes the weights that DINOv2 loses or never uses.

    Its files hold the position embeddings of the usual size. Those of another size are computed
    when it is loaded, so their training would be lost. Its mask token is for pretraining.
    """
    for layer in encoder.layers:
        if hasattr(layer, _POSITIONS):
            getattr(layer, _POSITIONS).trainable = False
        if getattr(layer, "mask_token", None) is not None:
            layer.mask_token.trainable = False


def _cut(encoder: keras.Model, name: str, backbone: str) -> keras.Model:
    outputs = {layer.name: layer.output for layer in encoder.layers}
    if not isinstance(outputs.get(name), keras.KerasTensor):
        near = did_you_mean(name, outputs)
        raise UserError(f"backbone.cut: {backbone} has no layer {name!r} to cut at.{near}")
    return keras.Model(encoder.input, outputs[name], name=encoder.name)


def _with_pixels(
    encoder: keras.Model, family: HubFamily, pixels: Pixels, size: int, name: str
) -> keras.Model:
    """Returns a model that takes raw images and gives one tensor of features."""
    images = keras.Input((size, size, 3), name="image")
    scaled = keras.layers.Rescaling(
        pixels.scale, pixels.offset, dtype="float32", name="preprocessing"
    )(images)
    try:
        features = encoder(keras.tree.pack_sequence_as(encoder.input, [scaled]))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"data.input.size: {name} cannot take images of {size} px: {first_line(error)}"
        ) from error
    if isinstance(features, dict):  # of stages, or with the features before the last norm
        last = getattr(encoder, "stage_names", ["sequence_output"])[-1]
        if last not in features:
            raise UserError(f"backbone.name: {name} does not give its last stage, {last}.")
        features = features[last]
    return keras.Model(images, features, name=family.name.split(",")[0].replace(" ", ""))


def _front(encoder: keras.Model, family: HubFamily) -> int:
    """Returns how many steps come before those of the patches."""
    return sum(int(getattr(encoder, x)) if isinstance(x, str) else x for x in family.front)
