"""Configs and command lines: trees drawn from the schema, then mutated; texts; flags."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import re
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from ftkeras.cli.main import VERBS
from ftkeras.cli.main import main as ftkeras
from ftkeras.config.load import dump_config, parse_text
from ftkeras.config.schema import Config
from ftkeras.config.schemas import json_schema, schema_of
from fuzzing.mutate import mutate

_TEXTS: tuple[str, ...] = (
    "head",
    "all",
    "blocks[-2:]",
    "blocks[9]",
    "re:(",
    "re:.*",
    "norm",
    "bias",
    "block:x",
)
_TEXTS += ("", "a", "MobileNetV2", "none", "starter", "val_loss", "val_accuracy", "accuracy")
_TEXTS += ("RandomFlip", "RandAugment", "relu", "swish", "glorot_uniform", "he_normal", "photos/")
_HOSTILE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 2**31, 2**63, 10**30, -(10**400), 1e308, 5e-324, "", " ", "\0"),
    *(float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], {"": None}, {1: 2}, "\n"),
    *("a" * 5000, "\u2028", "\ud800", "../../../etc/passwd", "/dev/zero", "$(reboot)", "{}"),
    *("null", "1e3", "0x10", "yes", "~", "=", "<<", "[]", "blocks[" + "9" * 30 + "]", "re:(a+)+$"),
)  # fmt: skip
_SCRAPS = (
    *("&a [*a]", "*nothing", "!!python/object/apply:os.system [true]", "!!timestamp x", "!!int ''"),
    *("!!bool x", "!!binary '*'", "!!set {a}", "!!omap [a: 1]", "!!float z", "? [1]\n: 2", "\t"),
    *("\ufeff", "--- a\n---\n", "%YAML 9.9\n---\n", "data: 1\ndata: 2\n", "<<: [{a: 1}, 2]", "- "),
    *("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "[" * 200, "{" * 200, "'", '"\\x00"', "#"),
)  # fmt: skip
_SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@dataclass(frozen=True)
class Case:
    """A command line, and the content of the config that it may name."""

    arguments: list[str]
    config: bytes


class _Accepted(Exception):
    """Raised in place of importing TensorFlow: the command line was understood."""


class _Slow(BaseException):
    pass


def make(rng: random.Random, folder: Path) -> Case:
    """Makes a case and writes its config."""
    shipped = yaml.safe_load(rng.choice(_SHIPPED).read_text())
    schema = schema_of(shipped.get("task", "classification"))
    drawn = _draw(rng, schema.model_json_schema())
    some = {name: drawn[name] for name in drawn if rng.random() < 0.3}
    tree = drawn if rng.random() < 0.3 else {**shipped, **some}
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        tree = _mutate_tree(rng, tree)
    content = _written(rng, tree)
    if rng.random() < 0.25:
        content = _mutate_text(rng, content)
    path = folder / "config.yaml"
    path.write_bytes(content)
    arguments = ["plan", f"--config={path}"]
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        arguments += ["--set", _override(rng)]
    if rng.random() < 0.15:
        arguments = _command_line(rng, arguments, folder)
    return Case(arguments, content)


def run(case: Case, seconds: int, bind: bool) -> str:
    """Runs a case; returns what became of it: "BAD: ..." is what must not happen."""
    output, errors = io.StringIO(), io.StringIO()
    accepted: list[Any] = []
    try:
        with (
            _alarm(seconds),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            status = _run(case.arguments, accepted)
            if status is None:
                for config in accepted:
                    if parse_text(dump_config(config)) != config:
                        return "BAD: the config does not read back equal"
                if not (bind and accepted):
                    return "accepted"
                from fuzzing.binding import bind_config

                status = ftkeras_status(lambda: bind_config(accepted[0]))
                if status == 0:
                    return "bound"
    except BaseException:
        return f"BAD: {traceback.format_exc()}"
    return _judge(case.arguments, status, errors.getvalue())


def ftkeras_status(call: Any) -> int:
    """Runs a function as the command line runs a verb; returns the exit status."""
    with mock.patch("ftkeras.cli.main._dispatch", lambda arguments: call() or 0):
        return ftkeras([])


def _run(arguments: list[str], accepted: list[Any]) -> int | None:
    """Returns the exit status, or None if TensorFlow would have been needed."""
    from ftkeras.cli import cache as cache_verb
    from ftkeras.cli import evaluate, export, flags, lr_find, plan, predict, train
    from ftkeras.cli import main as command

    real, dispatch = flags.load_config, command._dispatch

    def load(*args: Any) -> Config:
        accepted.append(real(*args))
        return accepted[-1]

    def stop() -> None:
        raise _Accepted

    def dispatched(arguments: list[str]) -> int:
        with contextlib.suppress(_Accepted):
            return dispatch(arguments)
        return -1

    with contextlib.ExitStack() as stack:
        for verb in (evaluate, export, lr_find, plan, predict, train, cache_verb):
            stack.enter_context(mock.patch.object(verb, "import_tensorflow", stop))
        stack.enter_context(mock.patch.object(flags, "load_config", load))
        stack.enter_context(mock.patch.object(command, "_dispatch", dispatched))
        status = ftkeras(arguments)
    return None if status == -1 else status


def _judge(arguments: list[str], status: int, errors: str) -> str:
    if "Traceback (" in errors or "mistake in ftkeras" in errors:
        kept = re.search(r"The traceback is in (\S+)\.", errors)
        return f"BAD: {errors}{Path(kept[1]).read_text() if kept else ''}"
    if status == 0:
        return "done"
    if status == 1 and arguments[0] == "doctor" and "ftkeras:" not in errors:
        return "advised against"  # what it found is on the standard output
    lines = errors.strip().splitlines()
    if status in (1, 2) and len(lines) == 1 and lines[0].startswith("ftkeras: "):
        return f"refused: {lines[0]}" if len(lines[0]) < 2000 else f"BAD: long: {lines[0]}"
    return f"BAD: status {status}: {errors}"


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise _Slow(f"took more than {seconds} s")

    signal.signal(signal.SIGALRM, ring)
    signal.signal(signal.SIGPROF, ring)
    signal.alarm(10 * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)


# ------------------------------------------------------------------------------- making


def _draw(rng: random.Random, schema: dict[str, Any], whole: dict[str, Any] | None = None) -> Any:
    """Draws a value that a JSON schema allows, or nearly."""
    whole = whole or schema
    if "$ref" in schema:
        return _draw(rng, whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return _draw(rng, rng.choice(schema[union]), whole)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        required = schema.get("required", ())
        return {
            name: _draw(rng, field, whole)
            for name, field in schema["properties"].items()
            if name in required or rng.random() < 0.3
        }
    if kind == "object":
        inner = schema.get("additionalProperties")
        value = inner if isinstance(inner, dict) else {"type": "number"}
        return {rng.choice(_TEXTS): _draw(rng, value, whole) for _ in range(rng.randrange(3))}
    if kind == "array":
        return [_draw(rng, schema["items"], whole) for _ in range(rng.choice((1, 1, 2, 3)))]
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 10))
    if kind == "integer":
        return rng.choice((low, min(low + rng.randrange(1, 9), high), high))
    if kind == "number":
        return rng.choice((low, high, rng.uniform(low, min(high, low + 1)), 1e-3))
    if kind == "boolean":
        return rng.random() < 0.5
    return None if kind == "null" else rng.choice(_TEXTS)


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    pairs = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    nodes = [(tree, key) for key, _ in pairs]
    for _, value in pairs:
        if isinstance(value, (dict, list)):
            nodes += _nodes(value)
    return nodes


def _mutate_tree(rng: random.Random, tree: Any) -> Any:
    tree = copy.deepcopy(tree)
    nodes = _nodes(tree)
    if not nodes:
        return tree
    holder, key = rng.choice(nodes)
    kind = rng.randrange(7)
    if kind <= 2:
        holder[key] = rng.choice(_HOSTILE)
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"name": holder[key]}
    elif kind == 5 and isinstance(holder, dict):
        holder[rng.choice((f"{key}x", str(key)[:-1], "", 7, None, "a\nb", 1.5))] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(rng.choice(nodes)[0])
    return tree


def _written(rng: random.Random, tree: Any) -> bytes:
    try:
        if rng.random() < 0.2:
            return json.dumps(tree, default=str).encode()
        return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None).encode(
            "utf-8", "surrogatepass"
        )
    except (yaml.YAMLError, TypeError, ValueError):
        return repr(tree).encode("utf-8", "surrogatepass")


def _mutate_text(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5:
        return mutate(rng, content, rng.choice(_SCRAPS).encode())
    lines = content.split(b"\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(_SCRAPS).encode())
    return b"\n".join(lines)


def _override(rng: random.Random) -> str:
    fields = _fields()
    field = (
        rng.choice(fields) if rng.random() < 0.8 else rng.choice(("", ".", "a..b", "a[", "x[9]"))
    )
    if rng.random() < 0.2:
        field = mutate(rng, field.encode() or b"x").decode("utf-8", "surrogateescape")
    value = rng.choice(
        (*_TEXTS, *_SCRAPS, *map(str, _HOSTILE), "1", "0.5", "true", "[a]", "{a: 1}")
    )
    return f"{field}{rng.choice(('=', '=', '=', '=', '', '=='))}{value}"


@cache
def _fields() -> tuple[str, ...]:
    """Paths of fields, as --set names them."""
    paths: list[str] = []
    rng = random.Random(0)
    for _ in range(40):

        def visit(tree: Any, prefix: str) -> None:
            pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
            for key, value in pairs:
                name = f"{prefix}[{key}]" if isinstance(tree, list) else f"{prefix}.{key}"
                paths.append(name.lstrip("."))
                if isinstance(value, (dict, list)):
                    visit(value, name)

        visit(_draw(rng, json_schema()), "")
    return tuple(dict.fromkeys(paths))


def _command_line(rng: random.Random, arguments: list[str], folder: Path) -> list[str]:
    words = ["--help", "-h", "--", "-", "", "--config", "--set", "--out=/dev/null/x", "--top_k=0"]
    words += ["--top_k=nan", "--flagfile=/dev/null/none", "--split=", "--max_mb=-1", "--low=inf"]
    words += [
        f"--flagfile={folder}",
        "--nooverwrite",
        "--overwrite=maybe",
        "\udcff",
        "a\nb",
        "x" * 9999,
    ]
    words += [
        "--steps=1e9",
        f"--config={folder}",
        "--config=/dev/zero",
        str(folder),
        "\u00e9",
        "--undefok=x",
    ]
    line = list(arguments)
    line[0] = rng.choice((*VERBS, "trian", "", "--version", "help", "\u2028"))
    for _ in range(rng.randrange(4)):
        line.insert(rng.randrange(1, len(line) + 1), rng.choice(words))
    if line[0] == "init":  # writes what it is told to
        line = [
            "init",
            *(word for word in line[1:] if word.startswith("-")),
            str(folder / "new.yaml"),
        ]
        (folder / "new.yaml").unlink(missing_ok=True)
    return line
