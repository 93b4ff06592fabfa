"""Explanations of wrong values, for configs and for scripts."""

from __future__ import annotations

import re
import typing
from typing import Any

from ftkeras.config.fields import field_names, fields_of, is_section
from ftkeras.errors import did_you_mean


def explain(item: Any, section: type) -> str:
    """Returns what is wrong with a value.

    Args:
        item: One of the errors of a pydantic ValidationError.
        section: The validated section; see `is_section`.
    """
    kind, value = item["type"], item["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        fields = _known_fields(section, item["loc"][:-1])
        guess = did_you_mean(str(item["loc"][-1]), fields)
        return f"no such field.{guess} Fields here: {', '.join(fields)}."
    if kind == "missing":
        return "is missing and has no default."
    if kind == "union_tag_not_found":
        return "'source' is missing. Allowed: folder, manifest, tfds, tfrecord, arrays, starter."
    if kind == "union_tag_invalid":
        allowed = item["ctx"]["expected_tags"].replace("'", "")
        guess = did_you_mean(str(item["ctx"]["tag"]), allowed.split(", "))
        return f"source {item['ctx']['tag']!r} is unknown.{guess} Allowed: {allowed}."
    if kind == "value_error":
        return str(item["ctx"]["error"])
    guess = ""
    if kind == "literal_error" and isinstance(value, str):
        guess = did_you_mean(value, re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    expected = re.sub(
        r" or instance of \w+$", "", item["msg"].replace("Input should be", "expected")
    )
    return f"{expected}, got {shorten(value)}.{guess}"


def shorten(value: Any) -> str:
    """Returns a value's `repr`, on one line of at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _known_fields(section: type, loc: tuple[str | int, ...]) -> list[str]:
    models: list[type] = [section]
    for part in loc:
        fields = {name: f for model in models for name, f in fields_of(model).items()}
        if part in fields:
            models = _models_in(fields[str(part)].annotation)
        elif not isinstance(part, int):  # the tag of a union: a source or a kind
            models = [m for m in models if part in _literals(m)] or models
    return list(dict.fromkeys(name for model in models for name in field_names(model)))


def _models_in(annotation: Any) -> list[type]:
    if is_section(annotation):
        return [annotation]
    return [model for arg in typing.get_args(annotation) for model in _models_in(arg)]


def _literals(model: type) -> tuple[Any, ...]:
    tags = [fields_of(model)[name] for name in ("source", "kind") if name in fields_of(model)]
    return tuple(value for tag in tags for value in typing.get_args(tag.annotation))
