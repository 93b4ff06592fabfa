"""A user's Keras model, from a `.keras` file, as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from ftkeras.backbones import blocks, catalog, weights_file
from ftkeras.backbones.backbone import Backbone
from ftkeras.errors import UserError, did_you_mean
from ftkeras.keras_internals import run_through_graph


def load(path: str, *, weights: str, image_size: int | None, cut: str | None) -> Backbone:
    """Loads a Functional or Sequential model and cuts its last layers off.

    Nested models are opened, so that the backbone is one flat graph. A `model.keras` of ftkeras
    works, too. A block is one weighted layer with the normalisations after it. A Keras
    Applications model, nested or not, is recognised by its layers, not by its name, and has the
    catalog's blocks.

    A model of images has to take raw 0..255 RGB. Only a Keras Applications model with nothing
    before its first convolution gets the preprocessing that its ImageNet weights expect.

    A model with other inputs, one tensor or several, keeps them. It is used whole, unless `cut`
    names a layer.

    Args:
        path: The `.keras` file. It is loaded in safe mode: Lambda layers are refused.
        weights: imagenet to keep the file's own, none for random ones, or another file.
        image_size: Side of the input in pixels; None for the size that the model was saved with.
        cut: The name of the layer whose output becomes the backbone's. None: the last one with a
            feature map larger than one pixel, or for a model that takes no images its output.

    Raises:
        UserError: The file, the model, the cut, the size or the weights cannot work.
    """
    model = weights_file.read_model(path, "backbone.name")
    if not getattr(model, "inputs", None):
        raise UserError(f"backbone.name: {path} holds no Functional or Sequential model.")
    entry = _recognize(model)
    natural_size = _natural_size(model, entry, image_size, path)
    if natural_size:
        size = natural_size if image_size is None else image_size
        inputs = [keras.Input((size, size, 3), name="image")]
        what = f"images of {size} px"
    else:
        inputs = [keras.Input(x.shape[1:], name=x.name, dtype=x.dtype) for x in model.inputs]
        what = "its inputs"
    flat = _Flattened(model, inputs, path, what, keep_weights=weights == "imagenet").cut(cut)
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


def _natural_size(
    model: keras.Model, entry: catalog.Entry | None, image_size: int | None, path: str
) -> int:
    """Returns the side of the square RGB image that the model takes; 0 if it takes other inputs.

    Raises:
        UserError: The size is unknown, or a size was set but the model takes no such image.
    """
    shape = tuple(model.inputs[0].shape)
    if len(model.inputs) == 1 and len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]:
        size = shape[1] or (entry.natural_size if entry else image_size)
        if size is None:
            raise UserError(f"data.input.size: {path} takes images of any size; set one.")
        return int(size)
    if image_size is not None:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in model.inputs)
        raise UserError(
            f"data.input.size: {path} takes {shapes}, and no square RGB image, "
            "(None, size, size, 3). Leave it out, or take another backbone."
        )
    return 0


class _Flattened:
    """Copies of a model's layers in one graph on new inputs.

    Args:
        model: A Functional or Sequential model, with others nested in it or not.
        inputs: The new inputs, in the order of the model's own.
        path: The model's file, for messages.
        what: A description of the new inputs, for messages.
        keep_weights: Whether the new layers get the weights of the old.
    """

    def __init__(
        self,
        model: keras.Model,
        inputs: Sequence[keras.KerasTensor],
        path: str,
        what: str,
        *,
        keep_weights: bool,
    ):
        self.path = path
        self.name = model.name
        self.inputs = list(inputs)
        # Several inputs are in the model's own structure: a dict by name or a list.
        several = len(self.inputs) > 1
        self.given = keras.tree.pack_sequence_as(model.input, inputs) if several else inputs[0]
        self.outputs: dict[str, Any] = {}
        self._new: dict[Any, Any] = {}
        try:
            self.end = self._run(model, self.given)
            if keep_weights:
                for old, new in self._new.items():
                    if getattr(old, "weights", None):
                        weights_file.assign(new, old.get_weights())
        except (ValueError, TypeError) as error:
            reason = weights_file.one_line(error)
            raise UserError(f"backbone.name: {path} cannot take {what}: {reason}") from error

    def cut(self, name: str | None) -> keras.Model:
        """Returns the model up to the layer of that name."""
        if name is not None and name not in self.outputs:
            near = did_you_mean(name, self.outputs)
            raise UserError(f"backbone.cut: {self.path} has no layer {name!r}.{near}")
        if len(self.inputs[0].shape) == 4:
            name = self._map(name)
        end = self.end if name is None else self.outputs[name]
        if not isinstance(end, keras.KerasTensor):
            raise UserError(
                f"backbone.name: {self.path} gives several tensors; backbone.cut names the layer "
                "whose output is taken."
            )
        return keras.Model(self.given, end, name=self.name)

    def _map(self, name: str | None) -> str:
        """Returns the layer at which a model for images is cut; its output is a feature map."""
        maps = [layer for layer, output in self.outputs.items() if len(output.shape) == 4]
        large = [layer for layer in maps if max(self.outputs[layer].shape[1:3]) > 1]
        if not maps:
            raise UserError(f"backbone.name: no layer of {self.path} puts out a feature map.")
        if name is None:
            return (large or maps)[-1]
        if name not in maps:
            raise UserError(
                f"backbone.cut: layer {name!r} puts out {tuple(self.outputs[name].shape)}, not a "
                f"feature map; the last feature map is that of {(large or maps)[-1]!r}."
            )
        return name

    def _run(self, model: keras.Model, inputs: Any) -> Any:
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = self._call(self._renew(layer), inputs)
            return inputs
        return run_through_graph(model, inputs, self._renew, self._call)

    def _renew(self, layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return layer
        if layer not in self._new:
            config = layer.get_config()
            if config.get("name") in {new.name for new in self._new.values()}:
                config["name"] = f"{config['name']}_{len(self._new)}"
            if "trainable" in config:
                config["trainable"] = True  # layers may have been frozen when the file was written
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
    """Returns the catalog's entry with whose weighted layers a model begins."""
    known = {entry.layers: entry for entry in catalog.CATALOG.values()}
    digests = blocks.layer_digests(blocks.leaf_layers(model))
    return next((known[digest] for digest in digests if digest in known), None)


def _starts_bare(model: keras.Model) -> bool:
    """Whether there is only padding between the input and the first weighted layer."""
    for operation in model.operations:
        if getattr(operation, "weights", None):
            return True
        if not isinstance(operation, (keras.layers.InputLayer, keras.layers.ZeroPadding2D)):
            return False
    return False
