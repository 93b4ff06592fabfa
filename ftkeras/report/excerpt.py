"""An example that is read, in pieces, each with the colour of what it did for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftkeras.report.html import Html, tag, text

_FAINT = 0.05  # of the largest weight: what is below has no colour
_STRONG = 0.5


def is_excerpt(drawn: Mapping[str, Any]) -> bool:
    """Whether an entry of `pictures.json` is an example that is read."""
    return isinstance(drawn.get("pieces"), list)


def excerpt(drawn: Mapping[str, Any]) -> Html:
    """Returns the pieces of an example as a paragraph.

    Args:
        drawn: An entry of `pictures.json`: `pieces`, the strings in order, and perhaps `weights`,
            for each a number, or None for what the model did not weigh.
    """
    pieces = drawn["pieces"]
    weights = drawn.get("weights") or [None] * len(pieces)
    most = max((abs(weight) for weight in weights if weight is not None), default=0.0)
    shown = [_piece(str(p), w, most) for p, w in zip(pieces, weights, strict=False)]
    return tag("p", shown, class_="excerpt", dir="auto")


def _piece(piece: str, weight: float | None, most: float) -> Html:
    share = abs(weight) / most if weight is not None and most else 0.0
    if weight is None or share < _FAINT:
        return text(piece)
    cues = ["against"] * (weight < 0) + ["strong"] * (share >= _STRONG)
    return tag(
        "mark",
        piece,
        class_=" ".join(cues) or None,
        style=f"--share:{share:.2f}",
        title=f"{weight:+.2f}",
    )
