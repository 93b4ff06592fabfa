"""Reads a config: YAML file, then `--set` overrides, then validation with clear errors."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ftkeras.config.errors import explain, shorten
from ftkeras.config.fields import field_names
from ftkeras.config.moved import Location, announce, dotted, move, new_location
from ftkeras.config.phases import Phase
from ftkeras.config.schema import Config, StrategyConfig
from ftkeras.config.schemas import SCHEMAS, schema_of
from ftkeras.console import counted
from ftkeras.errors import UserError, did_you_mean

MAX_BYTES = 1 << 18  # of a config file
_MAX_NODES = 100_000  # of a config whose aliases are expanded
_MAX_DEPTH = 50
_SHOWN = 5  # wrong fields beside the first


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-3 is a number, and only true and false are booleans.

    In YAML 1.1, which PyYAML reads, the number is 1.0e-3, and `off` is a boolean.
    """


class _Dumper(yaml.SafeDumper):
    """Writes YAML for `_Loader`: quotes texts that it would read as numbers."""


for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0].rsplit(":")[-1] not in ("timestamp", "bool")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:bool",
        re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
        list("tTfF"),
    )
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Returns the config of a YAML file with `overrides` applied.

    Args:
        path: A YAML file.
        overrides: Strings such as `"phases[1].epochs=20"`. Their values are read as YAML; the
            schema decides the types.

    Raises:
        UserError: The file is missing or not YAML, or a field is unknown, missing or mistyped.

    Example:
        >>> load_config("configs/quickstart.yaml", ["seed=1"]).seed  # doctest: +SKIP
        1
    """
    return parse_text(_read(path), overrides, where=str(path))


def parse_text(
    text: str, overrides: Iterable[str] = (), where: str = "config", *, is_saved: bool = False
) -> Config:
    """Returns the validated config of a YAML text; see `load_config` and `parse_config`."""
    try:
        tree = _parse_yaml(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where}: expected a mapping of sections (data:, backbone:, phases: ...).")
    return parse_config(tree, overrides, where, is_saved=is_saved)


def load_data_section(path: str | Path) -> dict[str, Any]:
    """Returns the `data` section of a YAML file as it is written; ignores the other sections.

    Raises:
        UserError: The file is missing or not YAML, or has no such section.
    """
    tree = _parse_yaml(_read(path))
    section = tree.get("data") if isinstance(tree, dict) else None
    if not isinstance(section, dict):
        raise UserError(f"{path}: has no data section.")
    return section


def _read(path: str | Path) -> str:
    try:
        # Reading a pipe without a writer, or a device, would never end.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UserError(f"{path}: the config is not a regular file.")
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path}: the config is larger than 256 KiB.")
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError:
        shipped = Path(path).parts[:1] == ("configs",)
        raise UserError(
            f"{path}: no such config file. `ftkeras init` writes one to start from."
            f"{' The folder configs is in the repository, not in the package.' if shipped else ''}"
        ) from None
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name with a null byte
        raise UserError(f"{path}: cannot be read as a text file ({error}).") from None


def _parse_yaml(text: str) -> Any:
    """Returns the plain values of one YAML document; raises UserError if it is not valid."""
    try:
        loader = _Loader(text)  # a SafeLoader: it makes no objects
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except UserError:
        raise
    except RecursionError:
        raise UserError("not valid YAML: it is nested too deeply.") from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, str(error.problem)
        if mark is None:
            raise UserError(f"not valid YAML: {problem}.") from None
        if "'\\t'" in problem:
            problem = "tabs are not allowed, only spaces"
        raise UserError(
            f"not valid YAML: line {mark.line + 1}, column {mark.column + 1}: {problem}."
        ) from None
    except Exception as error:  # PyYAML's readers of tagged values raise errors of any type
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"not valid YAML: {text}") from None


def _measure(node: yaml.Node, seen: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Returns the number of nodes under a node, and their depth, with aliases expanded.

    A few lines of nested aliases can expand to billions of values. PyYAML would make them when it
    merges mappings, and so would all code that walks the tree.

    Raises:
        UserError: They are too many, too deep, or endless; or a key is given twice.
    """
    known = seen.setdefault(id(node), (0, 0))
    if known != (0, 0):
        return known
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    if any(seen.get(id(part)) == (0, 0) for part in inside):
        raise UserError("not valid YAML: an alias contains itself.")
    measured = [_measure(part, seen) for part in inside]
    size = 1 + sum(nodes for nodes, _ in measured)
    depth = 1 + max((levels for _, levels in measured), default=0)
    if size > _MAX_NODES or depth > _MAX_DEPTH:
        raise UserError(
            f"not valid YAML: a config has at most {_MAX_NODES} values and {_MAX_DEPTH} levels."
        )
    seen[id(node)] = size, depth
    return size, depth


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuses a key that is given twice: PyYAML would silently take the last value."""
    keys: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in keys:
                line = key.start_mark.line + 1
                raise UserError(f"line {line}: the key {shorten(key.value)} is given twice.")
            keys.add(key.value)


def parse_config(
    tree: Mapping[str, Any],
    overrides: Iterable[str] = (),
    where: str = "config",
    *,
    is_saved: bool = False,
) -> Config:
    """Returns the validated config of a plain mapping; see `load_config`.

    Args:
        tree: The mapping.
        overrides: See `load_config`.
        where: The config's name in errors.
        is_saved: Whether a run saved it. If not, a line is printed about fields with old names.
    """
    raw_values: dict[Location, str] = {}
    names: dict[Location, Location] = {}
    data = _copy(tree)
    moved = move(data, where)
    for override in overrides:
        written, text = _parse_override(override)
        location = new_location(written)
        if names.setdefault(location, written) != written:
            both = " and ".join(sorted(map(dotted, (names[location], written))))
            raise UserError(f"--set: {both} are the same field; leave one out.")
        if location != written:
            moved.append(f"{dotted(written)} is now {dotted(location)}")
        try:
            value = _parse_yaml(text) if text else None
        except UserError:
            value = text  # such as the pattern train-*
        _assign(data, location, value, override)
        raw_values[location] = text
    moved += move(data, where)  # an override may be a whole section
    if not is_saved:
        announce(moved)
    schema = _schema_of(data, "--set" if ("task",) in raw_values else where)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        if not _retype_strings(data, error, raw_values):
            raise _user_error(error, data, where, schema, raw_values) from None
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise _user_error(error, data, where, schema, raw_values) from None


def _schema_of(data: Mapping[str, Any], where: str) -> type[Config]:
    task = data.get("task", "classification")
    if not isinstance(task, str) or task not in SCHEMAS:
        guess = did_you_mean(task, SCHEMAS) if isinstance(task, str) else ""
        raise UserError(
            f"{where}: task: no task {shorten(task)}.{guess} Tasks: {', '.join(SCHEMAS)}."
        )
    return schema_of(task)


def dump_config(config: Config) -> str:
    """Returns the config as YAML, which `load_config` reads back to an equal config."""
    tree = config.model_dump(mode="json")
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100)


def differences(old: Config, new: Config) -> list[str]:
    """Returns the fields in which two configs differ, as `FIELD: OLD -> NEW`.

    Example:
        >>> differences(config, config.model_copy(update={"seed": 1}))  # doctest: +SKIP
        ['seed: 0 -> 1']
    """
    before, after = (dict(leaves(config.model_dump(mode="json"))) for config in (old, new))
    names = dict.fromkeys((*before, *after))
    return [
        f"{name}: {_shown(before, name)} -> {_shown(after, name)}"
        for name in names
        if name not in before or name not in after or before[name] != after[name]
    ]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the paths and values of nested dicts and lists; a list of plain values is one value.

    Example:
        >>> dict(leaves({"seed": 1, "phases": [{"epochs": 2}]}))
        {'seed': 1, 'phases[0].epochs': 2}
    """
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from leaves(inside, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inside, (dict, list)) for inside in value):
        for number, inside in enumerate(value):
            yield from leaves(inside, f"{name}[{number}]")
    else:
        yield name, value


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return "left out" if leaves.get(name) is None else shorten(leaves[name])


# ----------------------------------------------------------------------------- overrides


def _parse_override(override: str) -> tuple[Location, str]:
    name, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+|\[-?[0-9]{1,9}\])*", name):
        raise UserError(
            f"--set {shorten(override)}: expected FIELD=VALUE, for example phases[1].epochs=20."
        )
    parts = re.findall(r"\w+|\[-?[0-9]+\]", name)
    return tuple(int(part[1:-1]) if part[0] == "[" else part for part in parts), text


def _assign(tree: Any, location: Location, value: Any, override: str) -> None:
    node = tree
    for depth, (part, following) in enumerate(zip(location, (*location[1:], None), strict=True)):
        if isinstance(part, int):
            if not isinstance(node, list) or not -len(node) <= part < len(node):
                held = (
                    f"it has {counted(len(node), 'entry', 'entries')}"
                    if isinstance(node, list)
                    else "it is not a list"
                )
                raise UserError(f"--set {shorten(override)}: no entry [{part}]; {held}.")
        elif isinstance(node, list):
            raise UserError(
                f"--set {shorten(override)}: {dotted(location[:depth])} is a list here. Name an "
                f"entry, such as {dotted((*location[:depth], 0, *location[depth:]))}."
            )
        elif not isinstance(node, dict):
            raise UserError(f"--set {shorten(override)}: {part!r} is not inside a section.")
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


def _retype_strings(data: Any, error: ValidationError, raw_values: dict[Location, str]) -> bool:
    """Gives overrides their text back if YAML read a number but the schema wants a string."""
    changed = False
    for item in error.errors():
        location = _clean(item["loc"], data)
        if item["type"] == "string_type" and location in raw_values:
            _assign(data, location, raw_values[location], "")
            changed = True
    return changed


# -------------------------------------------------------------------------------- errors


def _user_error(
    error: ValidationError,
    data: Any,
    where: str,
    schema: type[Config],
    overrides: Iterable[Location],
) -> UserError:
    by_location: dict[Location, list[str]] = {}
    for item in error.errors():
        location = _clean(item["loc"], data)
        message = explain(item, schema)
        if item["type"] == "extra_forbidden" and len(location) == 1:
            message = message.replace(".", _of_phases(str(location[0]), data), 1)
        by_location.setdefault(location, []).append(message)
    (location, messages), *others = by_location.items()
    name = dotted(location)
    if any(location[: len(override)] == override for override in overrides):
        where = "--set"
    message = " or ".join(dict.fromkeys(messages))
    shown = [dotted(other) for other, _ in others[:_SHOWN]]
    unshown = [f"{len(others) - _SHOWN} more"] if others[_SHOWN:] else []
    more = f" (Also wrong: {', '.join([*shown, *unshown])}.)" if others else ""
    return UserError(f"{where}: {name + ': ' if name else ''}{message}{more}")


def _of_phases(name: str, data: Any) -> str:
    """Returns the end of a sentence: which field of the phases has a name."""
    phases = data.get("phases")
    own = Phase if isinstance(phases, list) else StrategyConfig
    if name not in field_names(own):
        return "."
    return f". Did you mean phases{'[0]' if own is Phase else ''}.{name}?"


def _clean(loc: Location, data: Any) -> Location:
    """Returns a location without pydantic's tags for the members of a union."""
    kept: list[str | int] = []
    node = data
    for depth, part in enumerate(loc):
        if depth == 1 and loc[0] == "phases" and part in ("list", "strategy"):
            continue  # a tag, and "strategy" is also a field
        inside = isinstance(node, dict) and part in node
        if inside or (
            isinstance(node, list) and isinstance(part, int) and -len(node) <= part < len(node)
        ):
            node = node[part]
            kept.append(part)
        elif isinstance(node, dict) and depth == len(loc) - 1:
            kept.append(part)
    return tuple(kept)
