"""Images: the model's input is a square of pixels, RGB, 0 to 255."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import PIL
import tensorflow as tf

from ftkeras.errors import UserError, did_you_mean
from ftkeras.inputs.base import Input, Tree, Verdict, View, Wire
from ftkeras.inputs.image import scan
from ftkeras.inputs.image.augment import STRENGTHS, Augment, Strength, augment_image
from ftkeras.inputs.image.augment_layers import layers_augment
from ftkeras.inputs.image.decode import (
    MODES,
    Crop,
    all_of,
    cut,
    decode_image,
    random_part,
    resize_image,
)
from ftkeras.inputs.image.mix import mix_batch

_NONE, _LAYERS = "none", "layers"  # views besides the strengths


@dataclass(frozen=True)
class ImageInput(Input):
    """Square images of one size.

    A random crop needs the whole image, of which only the cropped part is decoded. Without a random
    crop the resized image is the same every time, so a cache keeps that.

    Args:
        size: Side of the model's input, in pixels; 0 if it is not known yet: images can then be
            found and checked.
        resize: How images become square: crop, pad or squash; see `decode.resize_image`.
        layers: Augments instead of a strength: (image float32 (s, s, 3) 0..255, key) -> image; see
            `augment_layers.layers_augment`.
        layers_recipe: A text that differs if the layers do.
        mixup: Alpha of MixUp; 0 is off.
        cutmix: Alpha of CutMix; 0 is off.
    """

    size: int = 0
    resize: str = "crop"
    layers: Augment | None = None
    layers_recipe: str = ""
    mixup: float = 0.0
    cutmix: float = 0.0

    kind = "image"
    noun = "image"
    files = "JPEG, PNG, GIF, BMP or WebP files"
    smaller = "data.input.size"
    starter = "fashion_mnist.zip"
    abilities = {
        **{
            name: f"ftkeras.inputs.image.{name}"
            for name in (
                "show", "cards", "corruptions", "looks", "duplicates", "golden", "levels"
            )
        },
        "features": "ftkeras.backbones.image.features",
    }  # fmt: skip
    version = (scan.VERSION, PIL.__version__, tf.__version__)

    def __post_init__(self) -> None:
        if self.resize not in MODES:
            guess = did_you_mean(self.resize, MODES)
            raise UserError(f"resize is one of {', '.join(MODES)}.{guess}")

    @property
    def views(self) -> Sequence[str]:
        """The strengths of augmentation; or "layers", which replace them."""
        return tuple(STRENGTHS) if self.layers is None else (_NONE, _LAYERS)

    @property
    def takes(self) -> Mapping[str, tf.TensorSpec]:
        """RGB float32 (size, size, 3), 0..255."""
        return {"image": tf.TensorSpec((self.size, self.size, 3), tf.float32)}

    @property
    def raw(self) -> tf.TensorSpec:
        """A file's bytes; or uint8 (h, w, 3) instead."""
        return tf.TensorSpec((), tf.string)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The size, and how images become square."""
        return {"image_size": self.size, "resize": self.resize}

    @property
    def title(self) -> str:
        """The size."""
        return f"at {self.size} px"

    @property
    def notes(self) -> Sequence[str]:
        """The notes of the layers."""
        return getattr(self.layers, "notes", ())

    @property
    def wire(self) -> Wire:
        """`image_bytes` are files, and `images` floats."""
        return Wire("image_bytes", "image/encoded", "images")

    @property
    def mixes(self) -> bool:
        """Whether MixUp or CutMix is on."""
        return bool(self.mixup or self.cutmix)

    def recipe(self, view: str = _NONE) -> str:
        """Returns a text that differs if the pixels could."""
        base = f"{self.size} px, {self.resize}"
        if view == _NONE:
            return base
        return f"{base}: {self.layers_recipe if view == _LAYERS else STRENGTHS[view]}"

    def accepts(self, name: str) -> bool:
        """Whether a file is an image, by its name; hidden files are not."""
        return scan.is_image_name(name)

    def check(self, raw: bytes, name: str, key: str) -> Verdict:
        """Checks one file; see `scan.examine`."""
        return scan.examine(name, raw, key)

    def check_array(self, array: np.ndarray, where: str) -> np.ndarray:
        """Returns uint8 (n, h, w, 3) of uint8 (n, h, w[, 1 | 3])."""
        if array.dtype != np.uint8:
            raise UserError(
                f"{where} is {array.dtype}; it must be uint8, 0 to 255. "
                "Scale it and convert it with .astype('uint8')."
            )
        if array.ndim == 3:
            array = array[..., np.newaxis]
        if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
            raise UserError(f"{where} has the shape {array.shape}; it must be (n, h, w[, 1 or 3]).")
        return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array

    def decode(self, raw: tf.Tensor, view: View) -> tf.Tensor:
        """Returns the image, uint8: whole for a random crop, otherwise square (size, size, 3)."""
        image = self._decoded(raw, view, None)
        # Resized images are whole numbers, so a byte holds them.
        return image if _crops(view) else tf.cast(self.square(image), tf.uint8)

    def prepare(self, kept: Tree, view: View, key: tf.Tensor) -> tf.Tensor:
        """Returns float32 (size, size, 3), 0..255."""
        return self._prepared(lambda part: cut(kept, part), view, key)

    def read(self, raw: tf.Tensor, view: View, key: tf.Tensor) -> tf.Tensor:
        """Returns the same, but decodes little more of a JPEG than the random crop."""
        return self._prepared(lambda part: self._decoded(raw, view, part), view, key)

    def mix(self, batch: tuple[Any, ...], key: tf.Tensor) -> tuple[Any, ...]:
        """Blends images, or feature maps of them, by MixUp or CutMix; see `mix_batch`."""
        inputs, *others = batch
        maps = tf.nest.flatten(inputs)
        mixed = mix_batch((*maps, *others), key, self.mixup, self.cutmix, len(maps))
        return tf.nest.pack_sequence_as(inputs, mixed[: len(maps)]), *mixed[len(maps) :]

    def why_not_mixed(self, specs: Sequence[Any]) -> str:
        """CutMix needs maps."""
        if self.cutmix and any(len(spec.shape) != 3 for spec in specs):
            return "CutMix needs feature maps, but other tensors cross the frontier"
        return ""

    def square(self, image: tf.Tensor) -> tf.Tensor:
        """Turns an image uint8 (h, w, 3) into float32 (size, size, 3), whole numbers 0..255."""
        if image.shape[:2] == (self.size, self.size):
            return tf.cast(image, tf.float32)
        return resize_image(image, self.size, self.resize)

    def _decoded(self, raw: tf.Tensor, view: View, part: Crop | None) -> tf.Tensor:
        """Returns a part of an image; that of a large JPEG is reduced to the model's input size."""
        if raw.dtype != tf.string:
            return cut(raw, part)
        least = max(_least(STRENGTHS[n], self.size) for n in view.names) if _crops(view) else 0
        return decode_image(raw, least or self.size, part)

    def _prepared(
        self, taken: Callable[[Crop | None], tf.Tensor], view: View, key: tf.Tensor
    ) -> tf.Tensor:
        """Returns the model's input from an image of which `taken` returns a part, or all."""
        if view.names == (_NONE,):
            return self.square(taken(None))
        if self.layers is not None:
            return self.layers(self.square(taken(None)), key)
        crop_key, other_key = tf.unstack(tf.random.split(key), num=2)
        image = taken(_part(view, crop_key) if _crops(view) else None)

        def change(name: str) -> tf.Tensor:
            strength = STRENGTHS[name]
            is_part = strength.scale < 1
            square = resize_image(image, self.size, "squash") if is_part else self.square(image)
            return augment_image(square, other_key, strength)

        return view.pick(change)


def _crops(view: View) -> bool:
    return any(name != _LAYERS and STRENGTHS[name].scale < 1 for name in view.names)


def _part(view: View, key: tf.Tensor) -> Crop:
    """Returns which part of an image the view takes."""

    def of(name: str) -> Crop:
        strength = STRENGTHS[name]
        if strength.scale < 1:
            return random_part(key, (strength.scale, 1.0), (1 / strength.ratio, strength.ratio))
        return all_of

    return lambda shape: view.pick(lambda name: of(name)(shape))


def _least(strength: Strength, size: int) -> int:
    """The shorter side that an image needs so that its smallest random crop loses nothing."""
    return math.ceil(size * math.sqrt(strength.ratio / strength.scale))


def make(settings: Mapping[str, Any], model: keras.Model | None) -> ImageInput:
    """Makes the input of a run.

    Args:
        settings: The fields of `ImageConfig`, as plain values; and `repeatable`, whether all
            augmentation layers have to follow a seed.
        model: If there is one, its input decides the size.
    """
    options = dict(settings)
    augmentation, repeatable = options.pop("augmentation", None), options.pop("repeatable", False)
    size = options.pop("size", None) or 0
    options |= options.pop("mix", {})
    if model is None:
        return ImageInput(size, **options)
    size = int(model.input_shape[1])
    if not isinstance(augmentation, list):
        return ImageInput(size, **options)
    rows = [(row["name"], row["args"]) for row in augmentation]
    layers = layers_augment(rows, size, repeatable=repeatable)
    return ImageInput(size, layers=layers, layers_recipe=f"seeded layers {rows!r}", **options)
