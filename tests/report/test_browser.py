"""Pages as a browser shows them: nothing is wider than the window, and nothing goes wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from ftkeras.report.comparison import comparison_page
from ftkeras.report.page import run_page
from ftkeras.report.read import read_run

pytestmark = pytest.mark.slow

# What reaches past the window's right edge, outside of boxes that scroll by themselves.
TOO_WIDE = """
[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll, pre, svg, .skip'))
  .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 120))
"""
# Text in charts, in pixels of the screen.
SMALLEST_TEXT = """
Math.min(...[...document.querySelectorAll('svg')].map(s =>
  s.getBoundingClientRect().width / s.viewBox.baseVal.width
  * parseFloat(getComputedStyle(s).fontSize)))
"""


def load_tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "browser.py"
    spec = importlib.util.spec_from_file_location("browser", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["browser"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    tool = load_tool()
    program = tool.find_browser()
    if program is None:
        pytest.skip(f"no browser on PATH: none of {', '.join(tool.NAMES)}")
    with tool.Browser(program) as browser:
        yield browser


def kinds(make_run) -> dict[str, str]:
    """A page of each kind that lays itself out differently."""
    long = [f"{'a_very_long_unbroken_class_name_' * 4}{i}" for i in range(3)]
    runs = {
        "ordinary": make_run("ordinary", [f"class {i}" for i in range(10)]),
        "long names": make_run("long-" * 30, [*long, "<script>alert(1)</script>"], accuracy=0.5),
        "many classes": make_run("many", [f"n{i:08d}" for i in range(200)], examples=400),
        "several labels": make_run("several", ["sky", "sea"], multi_label=True),
        "unfinished": make_run("unfinished", whole=False),
    }
    for name, piece in {"read": "word ", "read, without spaces": "endless"}.items():
        runs[name] = make_run(name)
        cards = {"pieces": [piece] * 60, "weights": [0.5, -0.2] * 30}
        pictures = {"test": {f"photos/{i:04d}.jpg": cards for i in range(60)}}
        (runs[name] / "pictures.json").write_text(json.dumps(pictures))
    facts = {name: read_run(str(folder)) for name, folder in runs.items()}
    pages = {name: run_page(run) for name, run in facts.items()}
    return {**pages, "side by side": comparison_page(list(facts.values()))}


def test_every_page_fits_at_any_width_and_in_both_schemes(browser, make_run, tmp_path):
    for name, markup in kinds(make_run).items():
        page = tmp_path / "page.html"
        page.write_text(markup, encoding="utf-8")
        for width in (360, 1440):
            for dark in (False, True):
                place = f"{name}, {width} px, {'dark' if dark else 'light'}"
                browser.open(page, width=width, dark=dark)
                assert browser.evaluate("document.documentElement.scrollWidth") <= width, place
                assert browser.evaluate(TOO_WIDE) == [], place
                assert browser.evaluate(SMALLEST_TEXT) is None or (
                    browser.evaluate(SMALLEST_TEXT) >= 9.5
                ), place
    assert browser.messages == []


def test_the_screenshot_is_light_or_dark_as_the_reader_asks(browser, make_run, tmp_path):
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    page.write_text(run_page(read_run(str(make_run()))), encoding="utf-8")
    corners = []
    for dark in (False, True):
        browser.open(page, width=360, dark=dark)
        browser.screenshot(shot)
        with Image.open(shot) as image:
            assert image.size[0] == 360
            corners.append(sum(image.convert("RGB").getpixel((0, 0))))
    assert corners[0] > 700 > 100 > corners[1]


def test_the_keyboard_reaches_the_content_first_and_every_box(browser, make_run, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(run_page(read_run(str(make_run()))), encoding="utf-8")
    browser.open(page, width=360)
    reached = [browser.press_tab() for _ in range(60)]
    assert reached[0] == "a Skip to the content"
    shown = "[...document.querySelectorAll('.scroll')].filter(e => !e.closest('details'))"
    labels = browser.evaluate(shown + ".map(e => e.ariaLabel)")
    assert len(labels) > 5
    assert {f"div {label}" for label in labels} <= set(reached)


def test_a_page_is_stopped_from_running_what_slipped_in(browser, make_run, tmp_path):
    page = tmp_path / "page.html"
    markup = run_page(read_run(str(make_run())))
    planted = "<script>document.title = 'run'</script><img src='https://example.invalid/x'></body>"
    page.write_text(markup.replace("</body>", planted), encoding="utf-8")
    before = len(browser.messages)
    browser.open(page, width=360)
    assert browser.evaluate("document.title") == "run - ftkeras report"
    blocked = browser.messages[before:]
    del browser.messages[before:]
    assert len(blocked) == 2
    assert all("Content Security Policy" in message for message in blocked)
