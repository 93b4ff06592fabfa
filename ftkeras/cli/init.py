"""`ftkeras init`."""

from __future__ import annotations

import os

from absl import flags

from ftkeras.config.template import commented_config
from ftkeras.errors import UserError

USAGE = """Usage:   ftkeras init FILE.yaml [--data=FOLDER] [--backbone=NAME] [--weights=imagenet]
Example: ftkeras init my.yaml --data=photos/ --backbone=EfficientNetV2B0
"""


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string(
        "data",
        None,
        "a folder with one folder a class; left out, the starter images",
        flag_values=values,
    )
    flags.DEFINE_string("backbone", "MobileNetV2", "see `ftkeras backbones`", flag_values=values)
    flags.DEFINE_string("weights", None, "imagenet, starter, none or a file", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if len(positional) != 1:
        raise UserError("init: expected the name of the config to write, for example my.yaml.")
    path = positional[0]
    if os.path.exists(path):
        raise UserError(f"init: {path} exists already. Choose another name, or remove it first.")
    text = commented_config(
        data=values.data,
        backbone=values.backbone,
        weights=values.weights,
    )
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"init: {path} cannot be written ({error.strerror}).") from None
    print(f"wrote {path}; next: ftkeras train --config={path}")
    return 0
