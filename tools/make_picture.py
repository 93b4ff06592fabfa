"""Draws what a command printed as an SVG picture of a terminal.

Usage: tools/quickstart 2>&1 | tee quickstart.txt; python tools/make_picture.py quickstart.txt
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

SHOWN_LINES = 26


def draw(lines: list[str], title: str) -> str:
    """Returns an SVG picture of the lines."""
    console = Console(record=True, width=max(map(len, lines)) + 2, file=io.StringIO())
    for line in lines:
        console.print(Text(line))
    svg = console.export_svg(title=title, unique_id="ftkeras")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no fonts from the network


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8").rstrip().splitlines()
    target = Path(__file__).resolve().parent.parent / "docs" / "quickstart.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text(draw(text[-SHOWN_LINES:], "tools/quickstart"), encoding="utf-8")
    print(f"wrote {target}")
