"""Line charts as SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 360, 64, 48, 40, 24


def line_chart(
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    mark: float | None = None,
) -> str:
    """Returns an SVG picture of one curve.

    Args:
        xs: Where the points lie, rising; above 0 if `log_x`.
        ys: Their heights; finite.
        title: What the picture shows.
        x_label: The name of the horizontal axis.
        y_label: The name of the vertical axis.
        log_x: Whether the horizontal axis is logarithmic.
        mark: Where to draw a vertical line, with its value.

    Example:
        >>> line_chart([1, 2], [3, 4], title="t", x_label="x", y_label="y").startswith("<svg")
        True
    """
    scaled = [math.log10(x) for x in xs] if log_x else list(xs)
    low_x, high_x, low_y, high_y = min(scaled), max(scaled), min(ys), max(ys)

    def across(x: float) -> float:
        return _LEFT + (x - low_x) / ((high_x - low_x) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return (
            _HEIGHT - _BOTTOM - (y - low_y) / ((high_y - low_y) or 1) * (_HEIGHT - _BOTTOM - _TOP)
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for tick in _ticks(low_x, high_x, whole=log_x):
        name = f"{10**tick:g}" if log_x else f"{tick:g}"
        x = across(tick)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{_HEIGHT - 30}" text-anchor="middle">{name}</text>'
        )
    for tick in _ticks(low_y, high_y):
        y = up(tick)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(scaled, ys, strict=True))
    parts.append(f'<polyline points="{points}" fill="none" stroke="#1565c0" stroke-width="2"/>')
    if mark is not None:
        x = across(math.log10(mark) if log_x else mark)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
            'stroke="#c62828" stroke-dasharray="4"/>'
            f'<text x="{x + 6:.1f}" y="{_TOP + 12}" fill="#c62828">{mark:.2g}</text>'
        )
    parts.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="14" y="{_HEIGHT / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {_HEIGHT / 2})">{escape(y_label)}</text></svg>'
    )
    return "\n".join(parts) + "\n"


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Returns about five round numbers between two others."""
    if high <= low:
        return [low]
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    step = max(round(step), 1) if whole else step
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]
