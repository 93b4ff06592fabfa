"""Writes a config with every field, its default, and a comment that explains it."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ftkeras.config.data import FolderData, ManifestData, StarterData, section_of
from ftkeras.config.fields import fields_of
from ftkeras.config.load import parse_config
from ftkeras.config.phases import Phase
from ftkeras.config.schema import has_own_weights, is_shipped_text, kind_of
from ftkeras.config.schemas import schema_of
from ftkeras.starter import ARCHITECTURE, SIDE, STARTER

_HEADER = """\
# A config of ftkeras. Run it:   ftkeras train --config=THIS-FILE
# Every field is here with its default; remove what you don't change.
"""
_SECTIONS: dict[str, type[BaseModel]] = {
    "folder": FolderData,
    "manifest": ManifestData,
    "starter": StarterData,
}


def commented_config(
    source: dict[str, Any],
    backbone: str,
    weights: str | None,
    more: Mapping[str, Any] | None = None,
) -> str:
    """Returns YAML with a comment on every field.

    For images, the last blocks train with the head, which starts from the floor. The run then
    trains once more on all examples except the test split; docs/floor.md has the measurements.

    Args:
        source: The section `data`; its source is folder, manifest or starter.
        backbone: A backbone's name.
        weights: imagenet, starter, none or a file. None: the backbone's own if it has some;
            otherwise starter for texts and for the starter's images.
        more: The task and other sections, instead of those of a classifier.
    """
    shipped = source["source"] == "starter" and backbone == ARCHITECTURE
    is_small, own = is_shipped_text(backbone), weights is None and has_own_weights(backbone)
    weights = weights or ("starter" if shipped or is_small else "imagenet")
    named: dict[str, Any] = {"name": backbone} if own else {"name": backbone, "weights": weights}
    config: dict[str, Any] = {"data": source, "backbone": named}
    inputs = source.get("input", {})
    kind = inputs.get("kind") or kind_of(backbone)
    if kind == "text":
        head = {"name": "head", "train": ["head"], "epochs": 5, "learning_rate": 1e-3}
        top = {"name": "top", "train": ["head", "blocks[-2:]"], "epochs": 5, "learning_rate": 5e-5}
        if is_small:  # the whole backbone trains
            top = {"name": "all", "train": ["all"], "epochs": 15, "learning_rate": 3e-3}
            config["head"] = {"dropout": 0.5}
        config["data"] = {**source, "input": {"kind": kind, **inputs}}
        config["phases"] = [head, top]
    else:
        train = ["all"] if weights == "none" else ["head", "blocks[-4:]"]
        length = {"epochs": 20, "learning_rate": 3e-4, "warmup": 0.1}
        side = {"size": SIDE} if (backbone, weights) == (ARCHITECTURE, STARTER) else {}
        config["data"] = {**source, "input": {"augmentation": "none", **side, **inputs}}
        config["phases"] = [{"name": "top", "train": train, **length}]
        config["training"] = {"monitor": "last_epoch", "refit": True}
    if more is not None:
        config = {name: config[name] for name in ("data", "backbone")} | dict(more)
    parse_config(config)  # what is written must be readable
    if own:
        named["weights"] = None  # written as a comment
    sections: dict[str, type[BaseModel]] = {"data": _SECTIONS[source["source"]]}
    schema = schema_of(config.get("task", "classification"))
    lines = _section(schema, config, sections, indent=0)
    return _HEADER + "\n" + "\n".join(lines) + "\n"


def _section(
    model: type[BaseModel], tree: dict[str, Any], sections: dict[str, type[BaseModel]], indent: int
) -> list[str]:
    space = "  " * indent
    lines: list[str] = []
    for name in sorted(model.model_fields, key=lambda name: name not in ("source", "path")):
        field = model.model_fields[name]
        default = None if field.default is PydanticUndefined else field.default
        value = tree.get(name, default)
        if indent == 0 and lines:
            lines.append("")
        if field.description:
            lines += [f"{space}# {line}" for line in field.description.splitlines()]
        inner = sections.get(name) or _model_of(field.annotation)
        if inner is None and isinstance(default, BaseModel):  # one of several allowed types
            inner = section_of(tree.get(name, {}).get("kind", "")) or type(default)
        if name == "phases":
            lines += [f"{space}phases:", *_phases(tree[name])]
        elif inner is not None and (isinstance(value, BaseModel) or name in tree):
            lines.append(f"{space}{name}:")
            own = default.model_dump(exclude_unset=True) if isinstance(default, BaseModel) else {}
            lines += _section(inner, tree.get(name, own), {}, indent + 1)
        elif value is None:
            lines.append(f"{space}# {name}:")
        else:
            lines.append(f"{space}{name}: {_scalar(value)}")
    return lines


def _phases(phases: list[dict[str, Any]]) -> list[str]:
    lines = []
    for number, phase in enumerate(phases):
        for index, (name, field) in enumerate(fields_of(Phase).items()):
            if number == 0:
                lines += [f"    # {line}" for line in (field.description or "").splitlines()]
            dash = "- " if index == 0 else "  "
            if name in phase:
                lines.append(f"  {dash}{name}: {_scalar(phase[name])}")
            elif number == 0:
                lines.append(f"    # {name}:")
    return lines


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [model for arg in typing.get_args(annotation) if (model := _model_of(arg))]
    return models[0] if len(models) == 1 and typing.get_origin(annotation) is not list else None


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
