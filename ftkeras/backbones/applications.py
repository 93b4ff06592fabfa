"""Builds the backbones of Keras Applications."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras

from ftkeras.backbones import blocks, catalog, weights_file
from ftkeras.backbones.backbone import Backbone
from ftkeras.errors import UserError, did_you_mean

# What Keras's EfficientNet weights need after their Normalization (see `_complete`).
_EFFICIENTNET_SCALE = [1.0 / math.sqrt(deviation) for deviation in (0.229, 0.224, 0.225)]


def load(
    entry: catalog.Entry, *, weights: str, image_size: int | None, cut: str | None = None
) -> Backbone:
    """Builds a catalog entry without top, and loads its weights.

    Args:
        entry: The backbone.
        weights: imagenet, starter, none, or the path of a file.
        image_size: Side of the input in pixels; None for the natural size.
        cut: The name of the layer whose output becomes the backbone's; None for the last one.

    Raises:
        UserError: The size is too small, there is no such layer, the weights cannot be had, or they
            do not fit.
    """
    size = entry.natural_size if image_size is None else image_size
    smallest = entry.family.smallest_size
    if size < smallest:
        raise UserError(
            f"data.input.size: {size} is too small for {entry.name}; its smallest is {smallest}."
        )
    if weights == "imagenet":
        model = _download(entry, size)
    else:
        model = _complete(entry, _build(entry, size, None))
        if weights != "none":
            weights_file.load_into(model, weights, entry.name)
    groups = blocks.find_blocks(model, entry.family)
    if cut is not None:
        model = _cut(model, cut, entry.name)
        groups = blocks.within(model, groups)
    return Backbone(
        name=entry.name,
        model=model,
        preprocessing=entry.family.preprocessing,
        natural_size=entry.natural_size,
        smallest_size=smallest,
        blocks=groups,
    )


def _cut(model: keras.Model, name: str, backbone: str) -> keras.Model:
    """Returns the model up to the layer of that name."""
    outputs = {layer.name: layer.output for layer in model.layers}
    if name not in outputs:
        near = did_you_mean(name, outputs)
        raise UserError(f"backbone.cut: {backbone} has no layer {name!r}.{near}")
    return keras.Model(model.input, outputs[name], name=model.name)


def _build(entry: catalog.Entry, size: int, weights: str | None) -> keras.Model:
    builder = getattr(keras.applications, entry.name)
    with warnings.catch_warnings():
        # The MobileNets warn that their weights are for 224 px; other sizes are intended here.
        warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
        return builder(include_top=False, weights=weights, input_shape=(size, size, 3))


def _download(entry: catalog.Entry, size: int) -> keras.Model:
    try:
        return _build(entry, size, "imagenet")
    except Exception as error:  # get_file raises bare Exception, urllib and files their own
        if not isinstance(error, OSError) and not any(
            sign in str(error) for sign in ("URL fetch failure", "corrupted file")
        ):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"backbone.weights: Keras could not download the ImageNet weights of {entry.name} "
            f"({reason}). Check the connection, name a file of weights, or use what ftkeras ships: "
            "backbone.name=MobileNetV2 and backbone.weights=starter."
        ) from error


def _complete(entry: catalog.Entry, model: keras.Model) -> keras.Model:
    """Gives EfficientNet (version 1) the graph that it has with Keras's own download.

    Keras's weights hold the standard deviation of ImageNet, but Normalization expects the variance.
    The builder fixes that with one more Rescaling, but only if `weights="imagenet"`. The same file
    loaded by path would get other inputs. So the Rescaling is always inserted: the graph is the
    same with any weights, and weights that were trained here load here.
    """
    if entry.family is not catalog.EFFICIENTNET:
        return model

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Normalization):
            return keras.layers.Rescaling(_EFFICIENTNET_SCALE)(outputs)
        return outputs

    return keras.models.clone_model(model, call_function=call)
