"""The words of the manual and of the code: those that readers found hard are counted.

"where" may name a place, so each page and package has a number of them. For a condition the word is
"if" or "when".
"""

from __future__ import annotations

import ast
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING"))]
PAGES += sorted((ROOT / "docs").glob("*.md"))
PACKAGES = {
    "__init__.py": 0,
    "__main__.py": 0,
    "version.py": 0,
    "console.py": 1,
    "cache.py": 0,
    "files.py": 1,
    "paths.py": 0,
    "phases": 1,
    "measures": 0,
    "outputs": 0,
    "devices": 0,
    "doctor": 1,
    "report": 13,
    "evaluation": 2,
    "config": 1,
    "model": 0,
    "trunk": 9,
    "inputs": 6,
    "backbones": 1,
    "cli": 1,
    "training": 5,
    "findings.py": 0,
    "memory.py": 0,
    "run.py": 0,
    "graph.py": 2,
    "system_errors.py": 0,
    "signals.py": 0,
    "state_file.py": 0,
    "timeline.py": 2,
    "errors.py": 1,
    "imports.py": 0,
    "keras_internals.py": 1,
    "starter": 2,
    "data": 15,
    "export": 9,
    "runs": 9,
    "tasks/__init__.py": 0,
    "tasks/adversarial": 0,
    "tasks/alignment": 2,
    "tasks/classification": 0,
    "tasks/domain_adaptation": 2,
    "tasks/few_shot": 0,
    "tasks/incremental": 0,
    "tasks/multi_task": 0,
    "tasks/robust_weights": 0,
}
"""By package: how often "where" names a place in it, at most."""
OTHERS = {"tools": 3, "tests": 21, "configs": 0, "notebooks": 0}
"""The same by folder outside of the package."""
SPEAKS_OF_WORDS = {"test_words.py"}
"""Files whose subject are the words themselves."""
PLACES = {"docs/code.md": 4}
"""By page: the same; 3 if it is not here."""

_OF = "class|image|text|batch|step|epoch|phase|second|label|replica|worker|update"
_COUNTED = (
    r"\d|images?|texts?|examples|shots|times|folder|files?|labels?|once|rates?|blocks?|ms|bytes"
)
AVOID = {
    "resumes, continues": r"\b(?:go|goes|going|went|gone) on\b(?! to\b)",
    "again": r"\banew\b",
    "instead": r"\bin its place\b",
    "except": r"\bbut for\b",
    "fix": r"\bmend(?:s|ed|ing)?\b",
    "otherwise": r"(?<!thing )(?<!one )(?<!what )(?<!where )\b(?:or )?else\b(?!:)",
    "as usual": r"\bas ever\b",
    "a caller, no callback": r"\b(?:some|no)body\b|\bwhom\b",
    "pass": r"\bhand(?:s|ed)? on\b",
    "per": rf"\b(?:{_COUNTED}) an? (?:{_OF})\b",
}
"""By word to use: what it replaces."""


def sentences(path: Path) -> Iterator[str]:
    """Yields the prose of a page or a notebook, or the comments and texts of a module or script."""
    if path.suffix == ".md":
        text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        yield re.sub(r"`[^`\n]+`", "code", text)
        return
    if path.suffix == ".ipynb":
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield "".join(cell["source"])
        return
    if path.suffix != ".py":
        yield from re.findall(r"(?:^| )# (.*)", path.read_text(encoding="utf-8"))
        return
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.string
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"^\s*where: ", "", node.value, flags=re.MULTILINE)  # an argument


def modules(package: str) -> list[Path]:
    path = ROOT / "ftkeras" / package
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def files(folder: str) -> list[Path]:
    """Returns the modules, scripts, configs and notebooks of a folder."""
    found = (path for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    kinds = (".py", ".yaml", ".sh", ".ipynb", "")
    return [path for path in found if path.suffix in kinds and path.name not in SPEAKS_OF_WORDS]


def hard(path: Path) -> list[str]:
    """Returns the words to avoid, each with some text around it and what to write."""
    return [
        f"{path.relative_to(ROOT)}: {text[max(found.start() - 30, 0) : found.end() + 20]!r}: {to}"
        for text in map(" ".join, (part.split() for part in sentences(path)))
        for to, pattern in AVOID.items()
        for found in re.finditer(pattern, text, re.IGNORECASE)
    ]


def wheres(paths: list[Path]) -> int:
    """Returns how often "where" stands in the prose of some files."""
    texts = [text for path in paths for text in sentences(path)]
    return sum(len(re.findall(r"\bwhere\b", text, re.IGNORECASE)) for text in texts)


def test_pages_have_words_that_readers_know():
    assert [fault for page in PAGES for fault in hard(page)] == []
    limits = {page: PLACES.get(str(page.relative_to(ROOT)), 3) for page in PAGES}
    assert [page.name for page, limit in limits.items() if wheres([page]) > limit] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_have_words_that_readers_know(package):
    assert [fault for path in modules(package) for fault in hard(path)] == []
    assert wheres(modules(package)) <= PACKAGES[package]


@pytest.mark.parametrize("folder", OTHERS)
def test_other_folders_have_words_that_readers_know(folder):
    assert [fault for path in files(folder) for fault in hard(path)] == []
    assert wheres(files(folder)) <= OTHERS[folder]


def test_every_module_is_counted():
    counted = {path for package in PACKAGES for path in modules(package)}
    assert counted == set((ROOT / "ftkeras").rglob("*.py"))


def test_the_rule_itself(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("The run goes on, 3 labels an image.\n\n```\nanew\n```\nWhere it is, `where`\n")
    module = tmp_path / "module.py"
    module.write_text(
        '"""Drawn anew.\n\n    where: Its name.\n"""\nwhere = "go on to x"  # where\n'
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert [fault.rpartition(": ")[2] for fault in hard(page)] == ["resumes, continues", "per"]
    assert [fault.rpartition(": ")[2] for fault in hard(module)] == ["again"]
    assert wheres([page]) == 1 and wheres([module]) == 1
