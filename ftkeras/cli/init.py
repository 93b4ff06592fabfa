"""`ftkeras init`."""

from __future__ import annotations

import os
import shlex
from typing import Any

from absl import flags

from ftkeras.backbones import hub
from ftkeras.backbones.catalog import CATALOG, no_backbone
from ftkeras.backbones.text.catalog import TEXT_CATALOG
from ftkeras.config.schema import kind_of
from ftkeras.config.template import commented_config
from ftkeras.errors import UserError
from ftkeras.inputs.text.guess import Columns, columns_of, holds_texts

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
    kind = _kind_of(values.backbone)
    source, lines = _source(values.data, kind)
    kind = source.get("input", {}).get("kind", kind)
    backbone = values.backbone or (_FOR_TEXTS if kind == "text" else _FOR_IMAGES)
    _check_backbone(backbone, kind)
    if source["source"] == "starter" and kind != "text":
        source["input"] = {"size": 96}
    text = commented_config(source, backbone=backbone, weights=values.weights)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"init: {path} cannot be written ({error.strerror}).") from None
    if hub.is_hub(backbone) and (missing := hub.missing_packages(kind)):
        lines.append(f"{backbone} needs {missing}")
    for line in lines:
        print(line)
    print(f"wrote {path}; next: ftkeras train {shlex.quote(f'--config={path}')}")
    return 0


def _kind_of(backbone: str | None) -> str | None:
    """Returns the kind of input that --backbone takes; None if its name does not say."""
    return "image" if backbone in CATALOG else kind_of(backbone)


def _source(data: str | None, kind: str | None) -> tuple[dict[str, Any], list[str]]:
    """Returns the section `data` for what --data names, and lines about its columns.

    Args:
        data: The flag's value.
        kind: The kind of the examples; if it is None, the data decide. The section has `input` if
            they are texts.
    """
    if data is None:
        return {"source": "starter"}, []
    path = os.path.expanduser(data)
    if "://" not in data and not os.path.exists(path):
        raise UserError(f"init: --data: there is no folder or file {data!r}.")
    may_be_texts = kind in (None, "text")
    if data.endswith((".csv", ".tsv", ".jsonl")):
        # A column of files means images, unless the backbone is for texts.
        columns = columns_of(path, "" if kind else "path") if may_be_texts else Columns()
        section: dict[str, Any] = {"source": "manifest", "path": data}
        if columns.text:
            section["input"] = {"kind": "text", "column": columns.text}
            section |= {"label_column": columns.label} if columns.label else {}
        lines = _lines_on(columns) if columns.text or kind == "text" else []
        return section, lines
    if os.path.isfile(path):
        raise UserError(
            f"init: --data: {data!r} is neither a folder nor a .csv, .tsv or .jsonl file. Leave "
            "it out, and write the section data: yourself."
        )
    texts = {"input": {"kind": "text"}} if may_be_texts and holds_texts(path) else {}
    return {"source": "folder", "path": data, **texts}, []


def _lines_on(columns: Columns) -> list[str]:
    """Returns what was found, and what the user has to name in the config."""
    if not columns.text:
        return ["no column of texts was found: name it in the config (data.input.column)"]
    lines = [f"texts are read from the column {columns.text!r} (data.input.column)"]
    if columns.label:
        lines.append(f"labels are read from the column {columns.label!r} (data.label_column)")
    else:
        among = f" among {', '.join(columns.others)}" if columns.others else ""
        lines.append(
            f"no column of labels was found{among}: one has at least two values, which recur. "
            "Before you train, name it in the config (data.label_column)"
        )
    return lines


def _check_backbone(name: str, kind: str | None) -> None:
    if name in CATALOG or name in TEXT_CATALOG:
        return
    if name.startswith(hub.PREFIX) or "://" in name or os.path.isdir(os.path.expanduser(name)):
        return  # the run looks at it: that may take a download
    if not name.endswith(".keras"):
        raise no_backbone(name, kind)
    if "://" not in name and not os.path.isfile(os.path.expanduser(name)):
        raise UserError(f"init: --backbone: there is no file {name!r}.")
