"""`ftkeras init`."""

from __future__ import annotations

import os
import shlex
from typing import Any

from absl import flags

from ftkeras.backbones import hub
from ftkeras.backbones.catalog import find
from ftkeras.backbones.text.catalog import TEXT_CATALOG
from ftkeras.config.schema import kind_of
from ftkeras.config.template import commented_config
from ftkeras.errors import UserError
from ftkeras.inputs.text.guess import columns_of, holds_texts

USAGE = """Usage:   ftkeras init FILE.yaml [--data=FOLDER-OR-TABLE] [--backbone=NAME]
                    [--weights=imagenet]
Example: ftkeras init my.yaml --data=photos/ --backbone=EfficientNetV2B0
         ftkeras init my.yaml --data=reviews.csv --backbone=bilstm
         ftkeras init my.yaml --data=reviews.csv --backbone=keras_hub/distil_bert_base_en_uncased
"""

_FOR_IMAGES, _FOR_TEXTS = "MobileNetV2", "gru"


def define(values: flags.FlagValues) -> None:
    """Defines the verb's flags."""
    flags.DEFINE_string(
        "data",
        None,
        "a folder with a folder per class, a .csv, .tsv or .jsonl file; left out, the starter",
        flag_values=values,
    )
    flags.DEFINE_string(
        "backbone",
        None,
        f"see `ftkeras backbones`; left out, {_FOR_TEXTS} for texts, otherwise {_FOR_IMAGES}",
        flag_values=values,
    )
    flags.DEFINE_string("weights", None, "imagenet, starter, none or a file", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if len(positional) != 1:
        raise UserError("init: expected the name of the config to write, for example my.yaml.")
    path = positional[0]
    if os.path.exists(path):
        raise UserError(f"init: {path} exists already. Choose another name, or remove it first.")
    source = _source(values.data, values.backbone)
    backbone = values.backbone or (_FOR_TEXTS if "input" in source else _FOR_IMAGES)
    _check_backbone(backbone)
    if source["source"] == "starter" and kind_of(backbone) != "text":
        source["input"] = {"size": 96}
    text = commented_config(source, backbone=backbone, weights=values.weights)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"init: {path} cannot be written ({error.strerror}).") from None
    if column := source.get("input", {}).get("column"):
        print(f"texts are read from the column {column!r} (data.input.column)")
        label = source.get("label_column", "label")
        print(f"labels are read from the column {label!r} (data.label_column)")
    print(f"wrote {path}; next: ftkeras train {shlex.quote(f'--config={path}')}")
    return 0


def _source(data: str | None, backbone: str | None) -> dict[str, Any]:
    """Returns the section `data` for what --data names; with `input` if it holds texts."""
    if data is None:
        return {"source": "starter"}
    path = os.path.expanduser(data)
    if "://" not in data and not os.path.exists(path):
        raise UserError(f"init: --data: there is no folder or file {data!r}.")
    may_be_texts = backbone is None or kind_of(backbone) == "text"
    if data.endswith((".csv", ".tsv", ".jsonl")):
        # A column of files means images, unless the backbone is for texts.
        column = label = ""
        if may_be_texts:
            column, label = columns_of(path, "path" if backbone is None else "")
        texts = {"input": {"kind": "text", "column": column}} if column else {}
        labels = {"label_column": label} if label and column else {}
        return {"source": "manifest", "path": data, **labels, **texts}
    if os.path.isfile(path):
        raise UserError(
            f"init: --data: {data!r} is neither a folder nor a .csv, .tsv or .jsonl file. Leave "
            "it out, and write the section data: yourself."
        )
    texts = {"input": {"kind": "text"}} if may_be_texts and holds_texts(path) else {}
    return {"source": "folder", "path": data, **texts}


def _check_backbone(name: str) -> None:
    if name in TEXT_CATALOG:
        return
    if name.startswith(hub.PREFIX) or "://" in name or os.path.isdir(os.path.expanduser(name)):
        return  # the run looks at it: that may take a download
    if not name.endswith(".keras"):
        find(name)
    elif "://" not in name and not os.path.isfile(os.path.expanduser(name)):
        raise UserError(f"init: --backbone: there is no file {name!r}.")
