"""Makes the parts of the manual that follow from the code; mkdocs calls it (mkdocs.yml).

- The navigation: the sections of docs/README.md and the pages that they link to.
- The reference: each field of a config, each verb, each public name of Python.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ftkeras
from ftkeras.cli.main import VERBS, main
from ftkeras.config.schemas import json_schema

INDEX = Path(__file__).resolve().parent.parent / "docs" / "README.md"
REFERENCE = {
    "reference/config.md": "look up any field of a config: type, default, meaning",
    "reference/command_line.md": "look up any verb and its flags",
    "reference/python.md": "look up any public name of `import ftkeras`",
}
STYLE = "assets/wide.css"
_CSS = """\
.md-grid { max-width: 82rem; } /* tables and outputs are wide */
.md-typeset :is(td, th) code { overflow-wrap: normal; word-break: normal; } /* names stay whole */
@media (min-width: 60em) { .md-typeset table:not([class]) th { min-width: 0; } }
"""

Schema = Mapping[str, Any]

# ----------------------------------------------------------------------- what mkdocs calls


def on_config(config: Any) -> Any:
    """Sets the navigation and the style."""
    config.extra_css.append(STYLE)
    config.nav = navigation(INDEX.read_text(encoding="utf-8"))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the reference, and a style."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, STYLE, content=_CSS))
    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Names what lies outside docs/ without a link; lists the reference on the first page."""
    markdown = four_spaces(re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown))
    if page.file.src_uri != "README.md":
        return markdown
    rows = "\n".join(f"| [{name}]({name}) | {after} |" for name, after in REFERENCE.items())
    return f"{markdown}\n## Reference\n\n| page | after it you can |\n|---|---|\n{rows}\n"


def four_spaces(markdown: str) -> str:
    """Returns a page with what belongs to an item of a list indented by four spaces.

    Two or three are enough on GitHub, and for people; Python-Markdown wants four.
    """

    def shifted(block: re.Match[str]) -> str:
        more = " " * (4 - len(block[1]))
        return "\n".join(f"{more}{line}" for line in block[0].splitlines()) + "\n\n"

    whole = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)  # a fence in no list
    inner = re.compile(r"^( {2,3})```.*?^\1```$\n?", re.MULTILINE | re.DOTALL)
    parts = whole.split(markdown)
    for i in range(0, len(parts), 2):
        items = inner.sub(shifted, parts[i])
        parts[i] = re.sub(r"^ {2,3}(?=\S)", " " * 4, items, flags=re.MULTILINE)
    return "".join(parts)


def navigation(index: str) -> list[Any]:
    """Returns mkdocs's `nav`: a section for each of the index, with the pages it links to."""
    sections = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", index, re.MULTILINE | re.DOTALL)
    found: list[Any] = ["README.md"]
    for title, text in sections:
        linked = re.findall(r"^\| \[[^\]]+\]\((\w+\.md)\)", text, re.MULTILINE)
        found.append({title: linked})
    return [*found, {"Reference": list(REFERENCE)}]


def pages() -> dict[str, str]:
    """Returns the pages of the reference: Markdown by path."""
    return dict(zip(REFERENCE, (config_page(), verbs_page(), python_page()), strict=True))


# --------------------------------------------------------------------- the command line


def verbs_page() -> str:
    """Returns the page of verbs: what `ftkeras VERB --help` prints."""
    parts = [
        "# Verbs and flags",
        "After this page you know each verb's arguments and flags. "
        "`ftkeras VERB --help` prints the same.",
    ]
    for verb in VERBS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            main([verb, "--help"])
        parts.append(f"## {verb}\n\n```text\n{printed.getvalue().strip()}\n```")
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------- Python


def python_page() -> str:
    """Returns the page of public names, whose docstrings mkdocstrings puts in."""
    names = [name for name in ftkeras.__all__ if not name.startswith("__")]
    parts = [
        "# Names in Python",
        "After this page you know what each name of `import ftkeras` takes and returns.",
        *(f"::: ftkeras.{name}" for name in names),
    ]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------ configs


def config_page() -> str:
    """Returns the page of config fields, from the schema that editors use."""
    schema = json_schema()
    defs = schema["$defs"]
    places: dict[str, str] = {}
    _find(schema, "", defs, places)
    parts = [
        "# Fields of a config",
        "After this page you know what each field of a config holds. `ftkeras init my.yaml` writes "
        "most of them, with the same words as comments.",
        "## The whole config",
        _fields(schema, defs, places),
    ]
    for name, place in places.items():
        section = defs[name]
        parts += [f"## {place}", _words(section["description"]), _fields(section, defs, places)]
    return "\n\n".join(parts) + "\n"


def _find(section: Schema, path: str, defs: Mapping[str, Schema], places: dict[str, str]) -> None:
    """Notes by name where each section stands, outer ones first: `data.input, kind: text`."""
    for name, field in section["properties"].items():
        for ref, many in _refs(field):
            if ref not in places:
                place = f"{path}{name}{'[n]' if many else ''}"
                places[ref] = place + _chosen_by(defs[ref])
                _find(defs[ref], f"{place}.", defs, places)


def _chosen_by(section: Schema) -> str:
    """Returns the value that chooses a section among several, and its field; may be empty."""
    for name in ("source", "kind"):
        field = section["properties"].get(name, {})
        if "const" in field:
            return f", {name}: {field['const']}"
        if name == "kind" and field.get("type") == "string" and "enum" not in field:
            return ", any other kind"
    return ""


def _refs(field: Schema, many: bool = False) -> Iterator[tuple[str, bool]]:
    """Yields the names of the sections that a field may hold, and whether it holds many."""
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2], many
    for part in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _refs(part, many)
    for part in (field.get("items"), _values(field)):
        if part:
            yield from _refs(part, many=True)


def _values(field: Schema) -> Schema | None:
    """Returns what a mapping holds under its names."""
    patterns = [*field.get("patternProperties", {}).values(), field.get("additionalProperties")]
    return patterns[0] if isinstance(patterns[0], Mapping) else None


def _fields(section: Schema, defs: Mapping[str, Schema], places: Mapping[str, str]) -> str:
    """Returns a section's fields as a list: name, what it holds, default, meaning."""
    lines = []
    for name, field in section["properties"].items():
        if "const" in field:  # the heading names it
            continue
        refs = [ref for ref, _ in _refs(field)]
        meaning = field.get("description") or (
            defs[refs[0]]["description"] if len(refs) == 1 else "One of these sections."
        )
        about = "; ".join(filter(None, (_holds(field, places), _default(name, field, section))))
        lines.append(f"- **`{name}`** ({about}): {_words(meaning)}")
    return "\n".join(lines)


def _holds(field: Schema, places: Mapping[str, str]) -> str:
    """Returns in words what a field takes."""
    if "$ref" in field:
        place = places[field["$ref"].rpartition("/")[2]]
        anchor = re.sub(r"[^\w\- ]", "", place.lower()).replace(" ", "-")
        return f"[{place}](#{anchor})"
    choices = (*field.get("anyOf", ()), *field.get("oneOf", ()))
    if choices:
        words = [_holds(choice, places) for choice in choices if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind: str = field.get("type", "any value")
    if kind == "array":
        return f"list of {_holds(field['items'], places)}"
    if kind == "object":
        values = _values(field)
        return f"names with {_holds(values, places)} each" if values else "names with values"
    plain = {"integer": "whole number", "boolean": "`true` or `false`", "string": "text"}
    return plain.get(kind, kind) + _bounds(field)


def _bounds(field: Schema) -> str:
    """Returns the limits of a number that say something; the huge ones only stop slips."""
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    shown = [
        f"{sign} {field[name]:g}"
        for name, sign in signs.items()
        if name in field and field[name] < 1e6
    ]
    return f" {', '.join(shown)}" if shown else ""


def _default(name: str, field: Schema, section: Schema) -> str:
    """Returns a field's default as YAML would have it, or that it is required."""
    if name in section.get("required", ()):
        return "required"
    value = field.get("default")
    if value is None or (isinstance(value, Mapping) and value):
        return ""  # it may be left out, or has defaults of its own
    return f"default `{value if isinstance(value, str) else json.dumps(value)}`"


def _words(text: str) -> str:
    """Returns a docstring as one line of Markdown, with links to the pages that it names."""
    line = " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*")
    return re.sub(r"docs/(\w+\.md)", r"[docs/\1](../\1)", line)
