"""`ftkeras init`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags

from ftkeras.backbones import hub
from ftkeras.backbones.catalog import CATALOG, no_backbone
from ftkeras.backbones.text.catalog import TEXT_CATALOG
from ftkeras.config.schema import kind_of
from ftkeras.config.template import commented_config
from ftkeras.errors import UserError
from ftkeras.inputs.text.guess import Columns, columns_of, holds_texts, no_classes
from ftkeras.starter import ARCHITECTURE, STARTER, not_for

USAGE = """Usage:   ftkeras init FILE.yaml [--data=FOLDER-OR-TABLE] [--backbone=NAME]
                    [--weights=imagenet] [--task=classification|alignment]
Example: ftkeras init my.yaml --data=photos/ --backbone=EfficientNetV2B0
         ftkeras init my.yaml --data=reviews.csv --backbone=bilstm
         ftkeras init my.yaml --data=pairs.csv       (pictures with words)
         ftkeras init my.yaml --data=reviews.csv --backbone=keras_hub/distil_bert_base_en_uncased
"""

_FOR_IMAGES, _FOR_TEXTS = ARCHITECTURE, "gru"
_ALIGNMENT = "alignment"
_TABLES = (".csv", ".tsv", ".jsonl")
_BATCHES = (4, 8, 16, 32, 64, 128)


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
    flags.DEFINE_enum(
        "task",
        None,
        ["classification", _ALIGNMENT],
        "left out, the table's columns decide: pictures with words and no labels are aligned",
        flag_values=values,
    )
    flags.DEFINE_string("weights", None, "imagenet, starter, none or a file", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs the verb."""
    if len(positional) != 1:
        raise UserError("init: expected the name of the config to write, for example my.yaml.")
    path = positional[0]
    if os.path.exists(path):
        is_data = os.path.isdir(path) or path.endswith(_TABLES)
        remedy = f" If it is your data: ftkeras init my.yaml {shlex.quote(f'--data={path}')}"
        raise UserError(
            f"init: {path} exists already. Choose another name, or remove it first."
            f"{remedy if is_data else ''}"
        )
    kind = _kind_of(values.backbone)
    found = _found(values.data, kind, values.task)
    kind = found.section.get("input", {}).get("kind", kind)
    backbone = values.backbone or (_FOR_TEXTS if kind == "text" else _FOR_IMAGES)
    _check_backbone(backbone, kind)
    if values.weights == STARTER and backbone in CATALOG and backbone != _FOR_IMAGES:
        raise not_for(backbone)
    text = commented_config(found.section, backbone, values.weights, found.more)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"init: {path} cannot be written ({error.strerror}).") from None
    lines = list(found.lines)
    if values.weights is None and "weights: imagenet" in text:
        shipped = "" if backbone == _FOR_IMAGES else f"--backbone={_FOR_IMAGES} "
        lines.append(
            "train will download the ImageNet weights; without a connection: "
            f"{shipped}--weights={STARTER}"
        )
    if hub.is_hub(backbone) and (missing := hub.missing_packages(kind)):
        lines.append(f"{backbone} needs {missing}")
    for line in lines:
        print(line)
    print(f"wrote {path}; next: ftkeras doctor {shlex.quote(f'--config={path}')}")
    return 0


def _kind_of(backbone: str | None) -> str | None:
    """Returns the kind of input that --backbone takes; None if its name does not say."""
    return "image" if backbone in CATALOG else kind_of(backbone)


@dataclass(frozen=True)
class _Found:
    """What --data names.

    Args:
        section: The section `data`; it has `input` if the examples are texts.
        lines: What was found in the columns, for people.
        more: The task and its sections, if it is no classifier.
    """

    section: dict[str, Any]
    lines: Sequence[str] = ()
    more: dict[str, Any] | None = None


def _found(data: str | None, kind: str | None, task: str | None) -> _Found:
    """Returns what --data names.

    Args:
        data: The flag's value.
        kind: The kind of the examples; if it is None, the data decide.
        task: The value of --task.
    """
    path = os.path.expanduser(data or "")
    is_table = data is not None and data.endswith(_TABLES)
    if data is not None and "://" not in data and not os.path.exists(path):
        raise UserError(f"init: --data: there is no folder or file {data!r}.")
    if task == _ALIGNMENT and not is_table:
        raise UserError(
            "init: --task=alignment needs --data=TABLE, a .csv, .tsv or .jsonl file with a column "
            "of paths of pictures and columns of texts."
        )
    if data is None:
        return _Found({"source": "starter", **({} if kind == "text" else {"input": {"size": 96}})})
    if is_table:
        # A column of files means pictures, unless the backbone is for texts.
        columns = columns_of(path, "" if kind == "text" and task != _ALIGNMENT else "path")
        section = {"source": "manifest", "path": data}
        return _in_table(section, columns, kind, task)
    if os.path.isfile(path):
        raise UserError(
            f"init: --data: {data!r} is neither a folder nor a .csv, .tsv or .jsonl file. Leave "
            "it out, and write the section data: yourself."
        )
    if data is not None and "://" not in data and (wrong := no_classes(path)):
        raise UserError(f"init: --data: {wrong}")
    texts = {"input": {"kind": "text"}} if kind in (None, "text") and holds_texts(path) else {}
    return _Found({"source": "folder", "path": data, **texts})


def _in_table(
    section: dict[str, Any], columns: Columns, kind: str | None, task: str | None
) -> _Found:
    """Returns what is in a table, by its columns."""
    if columns.files:
        section |= {"image_column": columns.files} if columns.files != "path" else {}
        pairs = bool(columns.texts) and not columns.is_named
        if task == _ALIGNMENT or (task is None and kind is None and pairs):
            return _pairs(section, columns)
        section |= {"label_column": columns.label} if columns.label not in ("", "label") else {}
        return _Found(section, _lines_on_files(columns))
    if task == _ALIGNMENT:
        raise UserError(
            f"init: --task=alignment: no column of {section['path']} names files. Add one with the "
            "path of each picture, seen from the table's folder."
        )
    if columns.text and kind != "image":
        section["input"] = {"kind": "text", "column": columns.text}
        section |= {"label_column": columns.label} if columns.label else {}
    is_text = kind == "text" or "input" in section
    return _Found(section, _lines_on(columns) if is_text else [])


def _pairs(section: dict[str, Any], columns: Columns) -> _Found:
    """Returns a config that brings pictures and their texts into one space."""
    texts = list(columns.texts) or [name for name in columns.others if name != columns.label][:1]
    if not texts:
        raise UserError(
            f"init: --task=alignment: {section['path']} has no column of texts beside "
            f"{columns.files!r}. Add one."
        )
    alignment: dict[str, Any] = {"texts": texts, "units": 128}
    alignment |= {"separator": columns.separator} if columns.separator else {}
    lines = [
        f"pictures are read from the column {columns.files!r} (data.image_column), and their texts "
        f"from {', '.join(map(repr, texts))} (alignment.texts): task alignment brings both into "
        "one space"
    ]
    if columns.label and columns.label not in texts:
        alignment["classes"] = {"column": columns.label}
        lines.append(
            f"the column {columns.label!r} is only measured by (alignment.classes); if it is what "
            "you want to predict: --task=classification"
        )
    # A picture is compared with the texts of its batch: as many as the training split allows.
    rooms = [size for size in _BATCHES if size <= columns.count // 2] or _BATCHES[:1]
    section["batch_size"] = rooms[-1]
    phase = {"name": "projections", "train": ["head"], "epochs": 20, "learning_rate": 1e-3}
    return _Found(section, lines, {"task": _ALIGNMENT, "alignment": alignment, "phases": [phase]})


def _lines_on_files(columns: Columns) -> list[str]:
    """Returns what was found in a table of pictures."""
    lines = []
    if columns.files != "path":
        lines.append(f"pictures are read from the column {columns.files!r} (data.image_column)")
    if columns.label not in ("", "label"):
        lines.append(f"labels are read from the column {columns.label!r} (data.label_column)")
    if not columns.label:
        lines.append(_no_labels(columns))
    if columns.texts:
        names = ", ".join(map(repr, columns.texts))
        lines.append(
            f"words about the pictures are in {names}: --task=alignment brings pictures and words "
            "into one space"
        )
    return lines


def _lines_on(columns: Columns) -> list[str]:
    """Returns what was found, and what the user has to name in the config."""
    if not columns.text:
        return ["no column of texts was found: name it in the config (data.input.column)"]
    lines = [f"texts are read from the column {columns.text!r} (data.input.column)"]
    if columns.label:
        lines.append(f"labels are read from the column {columns.label!r} (data.label_column)")
    else:
        lines.append(_no_labels(columns))
    return lines


def _no_labels(columns: Columns) -> str:
    among = f" among {', '.join(columns.others)}" if columns.others else ""
    return (
        f"no column of labels was found{among}: one has at least two values, which recur. "
        "Before you train, name it in the config (data.label_column)"
    )


def _check_backbone(name: str, kind: str | None) -> None:
    if name in CATALOG or name in TEXT_CATALOG:
        return
    if name.startswith(hub.PREFIX) or "://" in name or os.path.isdir(os.path.expanduser(name)):
        return  # the run looks at it: that may take a download
    if not name.endswith(".keras"):
        raise no_backbone(name, kind)
    if "://" not in name and not os.path.isfile(os.path.expanduser(name)):
        raise UserError(f"init: --backbone: there is no file {name!r}.")
