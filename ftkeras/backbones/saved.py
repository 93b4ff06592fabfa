"""A Keras model of the user's own, from a `.keras` file, as a backbone."""

from __future__ import annotations

from typing import Any

import keras

from ftkeras.backbones import blocks, catalog, weights_file
from ftkeras.backbones.backbone import Backbone
from ftkeras.errors import UserError, did_you_mean
from ftkeras.keras_internals import run_through_graph


def load(path: str, *, weights: str, image_size: int | None, cut: str | None) -> Backbone:
    """Loads a Functional or Sequential model and cuts its last layers off.

    Nested models are opened, so that the backbone is one flat graph; a `model.keras` that
    ftkeras wrote serves as it is. A block is one weighted layer with the normalisations after it;
    in a Keras Applications model, nested or not and known by its layers, blocks are the catalog's.
    The model's own name decides nothing.

    The model has to take raw 0..255 RGB. Only a Keras Applications model with nothing before its
    first convolution gets the preprocessing that its ImageNet weights expect.

    Args:
        path: The `.keras` file. It is loaded in safe mode: Lambda layers are refused.
        weights: imagenet to keep the file's own, none for random ones, or another file.
        image_size: Side of the input in pixels; None for the size that the model was saved with.
        cut: The name of the layer whose output becomes the backbone's; None for the last one with
            a feature map larger than one pixel.

    Raises:
        UserError: The file, the model, the cut, the size or the weights cannot work.
    """
    model = weights_file.read_model(path, "backbone.name")
    saved_size = _check_input(model, path)
    entry = _recognize(model)
    natural_size = saved_size or (entry.natural_size if entry else image_size)
    if natural_size is None:
        raise UserError(f"data.image_size: {path} takes images of any size; say which to use.")
    size = natural_size if image_size is None else image_size
    flat = _Flattened(model, size, path, keep_weights=weights == "imagenet").cut(cut)
    if weights not in ("imagenet", "none"):
        weights_file.load_into(flat, weights, path)
    groups = blocks.find_blocks(flat, entry.family) if entry else ()
    return Backbone(
        name=path,
        model=flat,
        preprocessing=entry.family.preprocessing if entry and _starts_bare(flat) else "none",
        natural_size=natural_size,
        smallest_size=entry.family.smallest_size if entry else 1,
        blocks=groups if len(groups) > 1 else blocks.layer_blocks(flat),
    )


def _check_input(model: keras.Model, path: str) -> int | None:
    """Returns the side of the square image that the model takes, or None for any."""
    try:
        inputs = model.inputs
    except AttributeError:
        inputs = None
    if not inputs:
        raise UserError(f"backbone.name: {path} holds no Functional or Sequential model.")
    shape = tuple(inputs[0].shape)
    if len(inputs) > 1 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise UserError(
            f"backbone.name: {path} takes {shapes}; a backbone takes one square RGB image, "
            "(None, size, size, 3)."
        )
    return shape[1]


class _Flattened:
    """The same layers, made anew in one graph on an input of the wanted size.

    Args:
        model: A Functional or Sequential model, with others nested in it or not.
        size: Side of the input in pixels.
        path: The model's file, for messages.
        keep_weights: Whether the new layers get the weights of the old.
    """

    def __init__(self, model: keras.Model, size: int, path: str, *, keep_weights: bool):
        self.path = path
        self.name = model.name
        self.images = keras.Input((size, size, 3), name="image")
        self.outputs: dict[str, Any] = {}
        self._new: dict[Any, Any] = {}
        try:
            self._run(model, self.images)
            if keep_weights:
                for old, new in self._new.items():
                    if getattr(old, "weights", None):
                        weights_file.assign(new, old.get_weights())
        except (ValueError, TypeError) as error:
            reason = weights_file.one_line(error)
            raise UserError(
                f"backbone.name: {path} cannot take images of {size} px: {reason}"
            ) from error

    def cut(self, name: str | None) -> keras.Model:
        """Returns the model up to the layer of that name."""
        maps = [layer for layer, output in self.outputs.items() if len(output.shape) == 4]
        large = [layer for layer in maps if max(self.outputs[layer].shape[1:3]) > 1]
        if not maps:
            raise UserError(f"backbone.name: no layer of {self.path} puts out a feature map.")
        if name is None:
            name = (large or maps)[-1]
        if name not in self.outputs:
            near = did_you_mean(name, self.outputs)
            raise UserError(f"backbone.cut: {self.path} has no layer {name!r}.{near}")
        if name not in maps:
            raise UserError(
                f"backbone.cut: layer {name!r} puts out {tuple(self.outputs[name].shape)}, not a "
                f"feature map; the last feature map is that of {(large or maps)[-1]!r}."
            )
        return keras.Model(self.images, self.outputs[name], name=self.name)

    def _run(self, model: keras.Model, images: Any) -> Any:
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                images = self._call(self._renew(layer), images)
            return images
        return run_through_graph(model, images, self._renew, self._call)

    def _renew(self, layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return layer
        if layer not in self._new:
            config = layer.get_config()
            if config.get("name") in {new.name for new in self._new.values()}:
                config["name"] = f"{config['name']}_{len(self._new)}"
            if "trainable" in config:
                config["trainable"] = True  # whatever was frozen when the file was written
            self._new[layer] = type(layer).from_config(config)
        return self._new[layer]

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Model):
            output = self._run(layer, args[0])
        else:
            output = layer(*args, **kwargs)
        if isinstance(output, keras.KerasTensor):
            self.outputs[layer.name] = output
        return output


def _recognize(model: keras.Model) -> catalog.Entry | None:
    """Returns the catalog's entry whose weighted layers a model begins with."""
    known = {entry.layers: entry for entry in catalog.CATALOG.values()}
    digests = blocks.layer_digests(blocks.leaf_layers(model))
    return next((known[digest] for digest in digests if digest in known), None)


def _starts_bare(model: keras.Model) -> bool:
    """Whether nothing but padding stands between the input and the first weighted layer."""
    for operation in model.operations:
        if getattr(operation, "weights", None):
            return True
        if not isinstance(operation, (keras.layers.InputLayer, keras.layers.ZeroPadding2D)):
            return False
    return False
