"""Binds a config to a small model and data set, as `ftkeras plan` binds it to real ones."""

from __future__ import annotations

from functools import cache
from unittest import mock

from ftkeras.config.schema import Config


def bind_config(config: Config) -> None:
    """Assembles everything that the config says, but for its images and its backbone."""
    from ftkeras import tasks
    from ftkeras.training import build

    size = 16 if config.data.image_size is None else min(max(config.data.image_size, 12), 64)
    config = config.model_copy(update={"data": config.data.model_copy(update={"image_size": size})})
    with (
        mock.patch.object(build, "images", lambda config: _images()),
        mock.patch.object(
            build, "load_backbone", lambda *_, image_size, **__: _backbone(image_size)
        ),
    ):
        tasks.assemble(config).plan.as_json()


@cache
def _images():  # type: ignore[no-untyped-def]
    import numpy as np
    import tensorflow as tf

    from ftkeras.data.dataset import ImageData, Split

    def split(name: str) -> Split:
        labels = np.arange(8, dtype=np.int32) % 2
        black = tf.zeros((16, 16, 3), tf.uint8)
        return Split(name, list("abcdefgh"), labels, 2, lambda index, least=0: black)

    return ImageData("starter", ("a", "b"), False, {n: split(n) for n in ("train", "val")})


def _backbone(size: int):  # type: ignore[no-untyped-def]
    import keras

    from ftkeras.backbones.backbone import Backbone
    from ftkeras.backbones.blocks import layer_blocks

    keras.backend.clear_session()
    image = keras.Input((size, size, 3))
    map_ = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="one")(image)
    map_ = keras.layers.BatchNormalization(name="norm")(map_)
    map_ = keras.layers.Conv2D(4, 3, strides=2, name="two")(map_)
    model = keras.Model(image, map_)
    return Backbone("tiny", model, "none", 16, 1, layer_blocks(model))
