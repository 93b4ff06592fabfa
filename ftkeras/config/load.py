"""Reads a config: YAML file, then `--set` overrides, then validation with clear errors."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ftkeras.config.schema import Config
from ftkeras.errors import UserError, did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-3 is a number, and of all words only true and false are booleans.

    In YAML 1.1, which PyYAML reads, the number is 1.0e-3, and `off` is a boolean.
    """


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0].rsplit(":")[-1] not in ("timestamp", "bool")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Returns the config of a YAML file with `overrides` applied.

    Args:
        path: A YAML file.
        overrides: Strings such as `"phases[1].epochs=20"`; their values are read as YAML and typed
            by the schema.

    Raises:
        UserError: The file is missing or not YAML, or a field is unknown, missing or mistyped.

    Example:
        >>> load_config("configs/quickstart.yaml", ["seed=1"]).seed  # doctest: +SKIP
        1
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such config file. `ftkeras init` writes one to start from."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file ({error}).") from None
    try:
        tree = yaml.load(text, Loader=_Loader)  # a SafeLoader: it makes no objects
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of sections (data:, backbone:, phases: ...).")
    return parse_config(tree, overrides, where=str(path))


def parse_config(
    tree: Mapping[str, Any], overrides: Iterable[str] = (), where: str = "config"
) -> Config:
    """Returns the validated config of a plain mapping; see `load_config`."""
    raw_values: dict[tuple[str | int, ...], str] = {}
    data = _copy(tree)
    for override in overrides:
        location, text = _parse_override(override)
        try:
            value = yaml.load(text, Loader=_Loader) if text else None
        except (yaml.YAMLError, RecursionError, ValueError):
            value = text
        _assign(data, location, value, override)
        raw_values[location] = text
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        if not _retype_strings(data, error, raw_values):
            raise _user_error(error, data, where) from None
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise _user_error(error, data, where) from None


def dump_config(config: Config) -> str:
    """Returns the config as YAML that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)


# ----------------------------------------------------------------------------- overrides


def _parse_override(override: str) -> tuple[tuple[str | int, ...], str]:
    name, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+|\[-?\d+\])*", name):
        raise UserError(
            f"--set {override!r}: expected FIELD=VALUE, for example phases[1].epochs=20."
        )
    parts = re.findall(r"\w+|\[-?\d+\]", name)
    return tuple(int(part[1:-1]) if part[0] == "[" else part for part in parts), text


def _assign(tree: Any, location: tuple[str | int, ...], value: Any, override: str) -> None:
    node = tree
    for part, following in zip(location, (*location[1:], None), strict=True):
        if isinstance(part, int):
            if not isinstance(node, list) or not -len(node) <= part < len(node):
                held = (
                    f"it has {len(node)} entries" if isinstance(node, list) else "it is not a list"
                )
                raise UserError(f"--set {override!r}: no entry [{part}]; {held}.")
        elif isinstance(node, list):
            raise UserError(
                f"--set {override!r}: {part!r} is asked of a list; name an entry, as [0]."
            )
        elif not isinstance(node, dict):
            raise UserError(f"--set {override!r}: {part!r} is not inside a section.")
        if following is None:
            node[part] = value
        else:
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}
            node = node[part]


def _copy(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def _retype_strings(
    data: Any, error: ValidationError, raw_values: dict[tuple[str | int, ...], str]
) -> bool:
    """Gives overrides their text back where YAML read a number and the schema wants a string."""
    changed = False
    for item in error.errors():
        location = _clean(item["loc"], data)
        if item["type"] == "string_type" and location in raw_values:
            _assign(data, location, raw_values[location], "")
            changed = True
    return changed


# -------------------------------------------------------------------------------- errors


def _user_error(error: ValidationError, data: Any, where: str) -> UserError:
    by_location: dict[tuple[str | int, ...], list[str]] = {}
    for item in error.errors():
        location = _clean(item["loc"], data)
        by_location.setdefault(location, []).append(_explain(item, data))
    (location, messages), *others = by_location.items()
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    message = " or ".join(dict.fromkeys(messages))
    more = f" (and {len(others)} more)" if others else ""
    return UserError(f"{where}: {name + ': ' if name else ''}{message}{more}")


def _clean(loc: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """Returns a location without the tags that pydantic adds for the members of a union."""
    kept: list[str | int] = []
    node = data
    for place, part in enumerate(loc):
        inside = isinstance(node, dict) and part in node
        if inside or (
            isinstance(node, list) and isinstance(part, int) and -len(node) <= part < len(node)
        ):
            node = node[part]
            kept.append(part)
        elif isinstance(node, dict) and place == len(loc) - 1:
            kept.append(part)
    return tuple(kept)


def _explain(item: Any, data: Any) -> str:
    kind, given = item["type"], item["input"]
    if kind == "extra_forbidden":
        known = _known_fields(item["loc"][:-1])
        guess = did_you_mean(str(item["loc"][-1]), known)
        return f"no such field.{guess} Fields here: {', '.join(known)}."
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
    if kind == "literal_error" and isinstance(given, str):
        guess = did_you_mean(given, re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    return f"{item['msg'].replace('Input should be', 'expected')}, got {_shorten(given)}.{guess}"


def _shorten(given: Any) -> str:
    text = " ".join(repr(given).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _known_fields(loc: tuple[str | int, ...]) -> list[str]:
    models: list[type[BaseModel]] = [Config]
    for part in loc:
        fields = {name: f for model in models for name, f in model.model_fields.items()}
        if part in fields:
            models = _models_in(fields[str(part)].annotation)
        elif not isinstance(part, int):  # the tag of a union: the data source's name
            models = [m for m in models if part in _literals(m)] or models
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in typing.get_args(annotation) for model in _models_in(arg)]


def _literals(model: type[BaseModel]) -> tuple[Any, ...]:
    source = model.model_fields.get("source")
    return typing.get_args(source.annotation) if source else ()
