"""The manual as a site: what tools/manual.py makes of the code, and that all of it builds."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import ftkeras
from ftkeras.cli.main import VERBS
from ftkeras.config.schemas import json_schema

ROOT = Path(__file__).resolve().parents[1]


def load():
    spec = importlib.util.spec_from_file_location("manual", ROOT / "tools" / "manual.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manual = load()


def test_the_reference_has_every_field_of_every_section():
    schema = json_schema()
    page = manual.config_page()
    sections = {"The whole config": schema}
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    places: dict[str, str] = {}
    manual._find(schema, "", schema["$defs"], places)
    sections |= {place: schema["$defs"][name] for name, place in places.items()}
    assert set(places) == set(schema["$defs"])
    assert headings == list(sections) and len(set(headings)) == len(headings) > 20
    parts = re.split(r"^## .+$", page, flags=re.MULTILINE)[1:]
    for part, (place, section) in zip(parts, sections.items(), strict=True):
        fields = [name for name, field in section["properties"].items() if "const" not in field]
        listed = re.findall(r"^- \*\*`(\w+)`\*\* \(.+\): \S.+$", part, re.MULTILINE)
        assert listed == fields, place


def test_the_reference_says_what_a_field_holds():
    page = manual.config_page()
    assert (
        "- **`batch_size`** (whole number >= 1; default `32`): Examples per step, over all devices "
        "together."
    ) in page
    assert "- **`clip_norm`** (number > 0): " in page
    assert "[data, source: folder](#data-source-folder) or [data, source: manifest]" in page
    assert "- **`hidden`** (list of [head.hidden[n]](#headhiddenn); default `[]`): " in page


def test_the_reference_has_every_verb_and_flag():
    page = manual.verbs_page()
    parts = dict(re.findall(r"^## (\S+)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(parts) == list(VERBS)
    for verb, part in parts.items():
        values = flags.FlagValues()
        importlib.import_module(f"ftkeras.cli.{verb.replace('-', '_')}").define(values)
        assert VERBS[verb] in part and all(f"--{name}" in part for name in values)


def test_the_reference_has_every_public_name():
    names = re.findall(r"^::: ftkeras\.(\w+)$", manual.python_page(), re.MULTILINE)
    assert ["__version__", *names] == ftkeras.__all__


def test_the_navigation_has_every_page_once():
    [first, *sections] = manual.navigation(manual.INDEX.read_text(encoding="utf-8"))
    pages = [page for section in sections for linked in section.values() for page in linked]
    there = [path.name for path in (ROOT / "docs").glob("*.md")] + list(manual.REFERENCE)
    assert sorted([first, *pages]) == sorted(there)


def test_items_of_lists_are_indented_as_the_builder_wants():
    page = "1. one\n\n   ```yaml\n   a:\n     b: 1\n   ```\n2. two\n- x\n  - y\n\n    code\n"
    page += "```yaml\na:\n  b: 1\n```\n"
    assert manual.four_spaces(page) == (
        "1. one\n\n    ```yaml\n    a:\n      b: 1\n    ```\n\n2. two\n- x\n    - y\n\n    code\n"
        "```yaml\na:\n  b: 1\n```\n"
    )


def test_the_manual_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(package, reason='needs pip install ".[docs]"')
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    loaded = {
        url
        for text in pages.values()
        for url in re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", text)
    }
    assert loaded == set()  # the manual needs no network
    # What is a list or a fence on GitHub is one here, too.
    broken = [
        (path.name, paragraph[:200])
        for path, text in pages.items()
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL)
        if re.search(r"\n(- |\d+\. |\||```)|^```", paragraph) and "<code>" not in paragraph[:6]
    ]
    assert broken == []
    python = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert "StagedUnfreezing" in python and "&gt;&gt;&gt;" in python
