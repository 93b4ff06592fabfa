"""README.md and docs/: links resolve, every page is in the index, commands and figures are real."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from absl import flags

import ftkeras
from ftkeras.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """Returns a page without its code: what looks like a link or a heading there is none."""
    return re.sub(r"`[^`\n]+`", "code", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    names = [
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    ]
    before = [names[:i].count(name) for i, name in enumerate(names)]  # a second "name" is "name-1"
    return {f"{name}-{n}" if n else name for name, n in zip(names, before, strict=True)}


def links(page: Path) -> list[str]:
    """Returns the targets of a page's links within the repository."""
    return [link for link in LINK.findall(prose(page)) if not re.match(r"\w+:", link)]


def broken(page: Path) -> list[str]:
    """Returns the links of a page whose file or anchor is not there."""
    bad = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            bad.append(link)
    return bad


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_and_anchor_resolves(page):
    assert broken(page) == []


def long_lines(page: Path) -> list[str]:
    """Returns the lines over 100 characters, without tables and what a command printed."""
    output = re.compile(r"^( *)```(?:text)?\n.*?^\1```$", re.MULTILINE | re.DOTALL)
    text = output.sub("", page.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if not re.match(r" *\||    ", line)]
    return [line for line in lines if len(line) > 100]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_lines_have_at_most_100_characters(page):
    assert long_lines(page) == []


def test_long_lines_are_seen(tmp_path):
    page = tmp_path / "page.md"
    kept = [f"| {'a' * 100} |", "", "```", "b" * 101, "```", "", "```text", "c" * 101, "```"]
    page.write_text("\n".join(["x" * 101, *kept, "", "```sh", "y" * 101, "```", "z" * 100]))
    assert long_lines(page) == ["x" * 101, "y" * 101]


def test_broken_links_are_seen(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# Two words\n\n```sh\n# no heading\n```\n\n## A `b`, c\n")
    page.write_text(
        "# Here\n\n# Here\n\n[a](other.md#two-words) [b](#here-1) [c](https://example.org/x)\n"
        "[d](other.md#a-b-c) [e](gone.md) [f](#there) [g](other.md#no-heading) `[h](code.md)`\n"
    )
    assert broken(page) == ["gone.md", "#there", "other.md#no-heading"]


def test_the_readme_is_a_door():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"^```python$", text, re.MULTILINE)) == 2  # a run, and phases in a `fit`
    assert "docs/README.md" in links(README)
    assert len([link for link in links(README) if link.endswith((".svg", ".png"))]) == 1


def test_the_index_has_every_page_and_no_page_twice():
    linked = [link for link in links(DOCS / "README.md") if "/" not in link]
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert sorted(linked) == sorted(pages)


def test_every_picture_is_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert {path for path in DOCS.iterdir() if path.suffix != ".md"} <= shown


def test_pages_that_code_and_configs_name_are_there():
    """Messages, docstrings and comments point to `docs/PAGE.md`, never to a README section."""
    files = [
        path
        for folder, suffixes in (("ftkeras", ".py"), ("tools", ".py"), ("configs", ".yaml"))
        for path in sorted((ROOT / folder).rglob(f"*{suffixes}"))
    ]
    named = {
        (str(path.relative_to(ROOT)), page)
        for path in files
        for page in re.findall(r"docs/\w+\.md", path.read_text(encoding="utf-8"))
    }
    assert len({page for _, page in named}) > 5
    assert [(path, page) for path, page in sorted(named) if not (ROOT / page).is_file()] == []


def joined(block: str) -> list[str]:
    """Returns the commands of a block; a backslash at the end of a line continues it."""
    return re.sub(r"\\\n *", "", block).splitlines()


def commands(page: Path) -> list[list[str]]:
    """Returns the arguments of each `ftkeras` command in a page's shell code."""
    text = page.read_text(encoding="utf-8")
    code = [body for language, body in FENCE.findall(text) if language == "sh"]
    code += re.findall(r"^    (?=ftkeras )(.+)$", text, re.MULTILINE)
    lines = [shlex.split(line, comments=True) for block in code for line in joined(block)]
    return [line[line.index("ftkeras") + 1 :] for line in lines if "ftkeras" in line]


def in_tables(page: Path) -> list[list[str]]:
    """Returns the arguments of each `ftkeras` command that is a whole cell of a table."""
    cells = re.findall(r"\| `ftkeras ([a-z].*?)` (?=\|)", page.read_text(encoding="utf-8"))
    return [shlex.split(re.sub(r"\[.*?\]", "", cell)) for cell in cells]


def test_each_row_of_what_it_can_do_has_its_command():
    text = README.read_text(encoding="utf-8").split("## What it can do")[1].split("\n## ")[0]
    rows = text.strip().splitlines()[2:]
    assert len(rows) > 15
    assert [row for row in rows if "| `ftkeras" not in row] == []
    names = re.findall(r"\| `ftkeras\.(\w+)` \|", text)
    assert set(names) <= set(ftkeras.__all__)


def test_each_page_says_what_one_can_do_after_it():
    pages = [page for page in PAGES if page.parent == DOCS and page.name != "README.md"]
    without = [
        page.name
        for page in pages
        if not re.match(r"# .+\n\nAfter this page you ", page.read_text(encoding="utf-8"))
    ]
    assert without == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_has_these_flags(page):
    for verb, *arguments in commands(page) + in_tables(page):
        assert verb in VERBS
        values = flags.FlagValues()
        values.set_gnu_getopt(True)
        importlib.import_module(f"ftkeras.cli.{verb.replace('-', '_')}").define(values)
        values([verb, *arguments])  # raises if a flag is not one of the verb's


def test_the_readme_goes_from_photos_to_a_served_model():
    verbs = [verb for verb, *_ in commands(README)]
    assert verbs == ["init", "doctor", "train", "predict"]
    assert "\nsh runs/my/export/serving/serve.sh " in README.read_text(encoding="utf-8")


def test_measured_figures_are_those_of_the_page_beside_them():
    section = README.read_text(encoding="utf-8").split("## What was measured")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.*\d.*) \| (.+) \| \[.+\]\((.+)\) \|$", section, re.MULTILINE)
    assert len(rows) == 10
    for what, result, command, link in rows:
        page = (ROOT / link).read_text(encoding="utf-8")
        for figure in re.findall(r"\d[\d.e-]*\d|\d", result):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", page), (what, figure)
        for tool in re.findall(r"tools/[\w/.]+", command):
            assert (ROOT / tool).is_file(), tool
