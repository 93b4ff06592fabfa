"""Binds a config to a small model and data set, as `ftkeras plan` binds it to real ones."""

from __future__ import annotations

from typing import Any
from unittest import mock

from ftkeras.config.schema import Config


def bind_config(config: Config) -> None:
    """Assembles everything that the config states, except for its images and its backbone."""
    from ftkeras.data.sources import SOURCES
    from ftkeras.runs import build
    from ftkeras.runs.assemble import assemble

    asked = config.data.input.settings.get("size")
    size = 16 if asked is None else min(max(asked, 12), 64)
    kind = config.data.input.model_copy(update={"size": size})
    data = config.data.model_copy(update={"input": kind})
    config = config.model_copy(update={"data": data})
    items = _found([output.column or name for name, output in config.asked.items()])
    with (
        mock.patch.dict(SOURCES, {name: lambda **_: items for name in SOURCES}),
        mock.patch.object(
            build, "load_backbone", lambda *_, image_size, **__: _backbone(image_size)
        ),
    ):
        assemble(config).plan.as_json()


def _found(columns: list[str]) -> Any:
    """Makes black images of two classes, which the columns say in numbers."""
    import numpy as np
    import tensorflow as tf

    from ftkeras.data.dataset import Listing

    count = 16
    classes = np.arange(count) % 2
    black = tf.zeros((16, 16, 3), tf.uint8)
    return Listing(
        ids=[f"{i}.png" for i in range(count)],
        labels=[[("bag", "dress")[label]] for label in classes],  # as configs/multi_task.yaml knows
        parts=[("train", "train", "val", "test")[i // 2 % 4] for i in range(count)],
        make_fetch=lambda indices: lambda index: black,
        columns={name: classes.astype(str) for name in columns},
    )


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
