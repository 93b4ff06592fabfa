"""Takes the picture in docs/report.md of a report: wide and light, beside narrow and dark.

Usage: python tools/make_report_picture.py runs/quickstart/report.html   (needs a Chromium on PATH)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import Browser, find_browser
from PIL import Image

_WIDE, _NARROW, _GAP = 1180, 380, 20
_NARROW_SECTION = "mistakes-title"  # what the narrow window shows


def take(page: Path, target: Path) -> None:
    """Writes both windows, side by side, as PNG."""
    program = find_browser()
    if program is None:
        sys.exit("There is no Chromium on PATH.")
    with Browser(program) as browser, tempfile.TemporaryDirectory() as scratch:
        browser.open(page, width=_WIDE)
        end = "document.querySelector('#summary').getBoundingClientRect().bottom"
        height = int(browser.evaluate(end)) + 24
        shots = []
        for width, dark, anchor in ((_WIDE, False, ""), (_NARROW, True, _NARROW_SECTION)):
            browser.open(page, width=width, height=height, dark=dark)
            if anchor:
                browser.evaluate(
                    "document.documentElement.style.scrollBehavior = 'auto';"
                    f"document.getElementById('{anchor}').scrollIntoView()"
                )
            shot = Path(scratch, f"{width}.png")
            browser.screenshot(shot)
            shots.append(Image.open(shot).convert("RGB"))
    whole = Image.new("RGB", (_WIDE + _GAP + _NARROW, height), "#e6e9ee")
    whole.paste(shots[0], (0, 0))
    whole.paste(shots[1], (_WIDE + _GAP, 0))
    whole.save(target, optimize=True)


if __name__ == "__main__":
    picture = Path(__file__).resolve().parent.parent / "docs" / "report.png"
    take(Path(sys.argv[1]), picture)
    print(f"wrote {picture} ({picture.stat().st_size / 1000:.0f} kB)")
