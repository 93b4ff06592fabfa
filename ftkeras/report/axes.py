"""What every chart shares: an SVG frame with scales, ticks and labels, and its colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ftkeras.report.html import Html, tag, text

WIDTH, HEIGHT = 400, 280
_LEFT, _RIGHT, _BOTTOM, _TOP = 68, 12, 44, 34
_LEGEND_ROW, _CHARACTER = 18, 6.4  # in the chart's own pixels
_LONGEST_NAME = 30

# Of a chart that stands alone; a page defines the same variables for all its charts.
COLOURS = """\
:root { --paper: #ffffff; --ink: #1b2430; --muted: #556070; --rule: #d9dee5; --soft: #f1f4f8;
  --c0: #0b5cad; --c1: #b8480a; --c2: #00755a; --c3: #8a3fa0; --c4: #7a6200; --c5: #b0235f }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12161c; --ink: #e7ebf0; --muted: #a3aebc; --rule: #323b47; --soft: #1b222b;
    --c0: #74b9ff; --c1: #ff9d5c; --c2: #4fd0a8; --c3: #d7a2f5; --c4: #e2c94f; --c5: #ff8fb8 } }
"""
STYLE = """\
svg.chart { font: 12.5px system-ui, sans-serif; fill: var(--ink) }
.chart .title { font-size: 14px; font-weight: 600 }
.chart .grid { stroke: var(--rule) }
.chart .axis, .chart .tick { fill: var(--muted) }
.chart .band { fill: var(--soft) }
.chart .edge { stroke: var(--muted); stroke-dasharray: 2 4 }
.chart .mark { stroke: var(--c1); stroke-dasharray: 5 4; stroke-width: 1.5 }
.chart .reference { stroke: var(--ink); stroke-dasharray: 5 4; stroke-width: 1.5 }
.chart .curve { fill: none; stroke: var(--hue); stroke-width: 2; stroke-linejoin: round }
.chart .point { fill: var(--hue) }
.chart .column { fill: color-mix(in srgb, var(--hue) 55%, var(--paper)) }
.chart .count { fill: var(--muted) }
.chart .whisker { stroke: var(--hue); stroke-width: 2 }
""" + "".join(f".chart .hue{i} {{ --hue: var(--c{i}) }}\n" for i in range(6))

# So that no curve is told from another by its colour alone.
DASHES = (None, "7 4", "2 3", "10 3 2 3", "5 2", "12 4")
HUES = 6


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Args:
        name: What is written beside it.
        ends: What it reaches from and to.
        log: Whether it is logarithmic.
        whole: Whether only whole numbers make sense on it.
        ticks: Whether it is a scale, with numbers.
    """

    name: str
    ends: tuple[float, float] = (0.0, 1.0)
    log: bool = False
    whole: bool = False
    ticks: bool = True


@dataclass(frozen=True)
class Scale:
    """Maps the data of an axis to the chart's pixels.

    Args:
        axis: The axis.
        start, end: Where its ends lie.
    """

    axis: Axis
    start: float
    end: float

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.axis.log else v for v in (*self.axis.ends, value))
        share = (value - low) / (high - low) if high != low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Returns about five round numbers on the axis."""
        low, high = self.axis.ends
        if not self.axis.ticks:
            return []
        if not self.axis.log:
            return _round_numbers(low, high, self.axis.whole)
        low_power, high_power = math.log10(low), math.log10(high)
        return [10**tick for tick in _round_numbers(low_power, high_power, whole=True)] or [low]


@dataclass(frozen=True)
class Frame:
    """A chart's plotting area.

    Args:
        x, y: The scales.
        top, bottom, left, right: Its edges in the chart's pixels.
        height: Of the whole chart.
        legend: The names of the curves, in the order of their hues.
    """

    x: Scale
    y: Scale
    top: float
    bottom: float
    height: float
    legend: Sequence[str] = ()
    left: float = _LEFT
    right: float = WIDTH - _RIGHT


def frame(
    x: Axis,
    y: Axis,
    *,
    legend: Sequence[str] = (),
    height: float = HEIGHT,
    head: float = 0.0,
    foot: float = 0.0,
    under: float = 0.0,
) -> Frame:
    """Returns a plotting area for two axes, with room for a legend.

    Args:
        x: The horizontal axis.
        y: The vertical axis.
        legend: The names of the curves.
        height: Of the whole chart, without what `under` adds.
        head: Room between legend and plot.
        foot: Room in the plot, below what is plotted.
        under: Room between the numbers and the name of the horizontal axis.
    """
    top = _TOP + _LEGEND_ROW * len(_legend_rows(legend)) + (4 if legend else 0) + head
    bottom = height - _BOTTOM
    scales = Scale(x, _LEFT, WIDTH - _RIGHT), Scale(y, bottom - foot, top)
    return Frame(*scales, top, bottom, height + under, legend)


def draw(
    area: Frame,
    inside: Sequence[Html],
    *,
    title: str,
    description: str,
    under: Sequence[Html] = (),
    standalone: bool = False,
) -> Html:
    """Returns the chart: grid, labels, legend, and what is inside.

    Args:
        area: The plotting area.
        inside: What is drawn over the grid.
        title: What the chart shows.
        description: What can be seen in it, for those who can't see it.
        under: What is drawn under the grid.
        standalone: Whether the chart brings its own colours, to be a file.
    """
    style = [tag("style", Html(COLOURS + STYLE))] if standalone else []
    paper = (
        [tag("rect", width=WIDTH, height=area.height, fill="var(--paper)")] if standalone else []
    )
    grid = []
    for tick in area.x.ticks():
        x = area.x(tick)
        grid.append(line(x, area.top, x, area.bottom, "grid"))
        grid.append(words(x, area.bottom + 16, f"{tick:g}", "tick", "middle"))
    for tick in area.y.ticks():
        y = area.y(tick)
        grid.append(line(area.left, y, area.right, y, "grid"))
        grid.append(words(area.left - 6, y + 4, f"{tick:g}", "tick", "end"))
    middle = (area.top + area.bottom) / 2
    axis = {"class_": "axis", "text_anchor": "middle"}
    beside = {"x": 12, "y": middle, "transform": f"rotate(-90 12 {middle:g})"}
    labels = [
        words(4, 18, title, "title"),
        tag("text", area.x.axis.name, x=(area.left + area.right) / 2, y=area.height - 8, **axis),
        tag("text", area.y.axis.name, **beside, **axis),
    ]
    return tag(
        "svg",
        style, paper, under, grid, labels, _legend(area.legend), inside,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {area.height:g}", role="img",
        aria_label=f"{title}. {description}", class_="chart",
    )  # fmt: skip


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    """Returns a straight line."""
    return tag("line", x1=_at(x1), y1=_at(y1), x2=_at(x2), y2=_at(y2), class_=class_)


def box(x1: float, y1: float, x2: float, y2: float, class_: str, *inside: Html) -> Html:
    """Returns a rectangle between two corners."""
    width, height = _at(abs(x2 - x1)), _at(abs(y2 - y1))
    return tag(
        "rect", *inside, x=_at(min(x1, x2)), y=_at(min(y1, y2)), width=width, height=height,
        class_=class_,
    )  # fmt: skip


def words(x: float, y: float, what: str, class_: str, anchor: str | None = None) -> Html:
    """Returns text at a place."""
    return tag("text", what, x=_at(x), y=_at(y), class_=class_, text_anchor=anchor)


def point(x: float, y: float, hue: int, note: str, size: float = 3.2) -> Html:
    """Returns a marker, of a shape of its own for each hue, that says its note when pointed at."""
    shapes = (
        f"M{_at(x - size)} {_at(y)}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 "
        f"{-2 * size} 0",
        f"M{_at(x - size)} {_at(y - size)}h{2 * size}v{2 * size}h{-2 * size}z",
        f"M{_at(x)} {_at(y - size - 1)}l{size + 1} {2 * size}h{-2 * size - 2}z",
        f"M{_at(x)} {_at(y - size - 1)}l{size + 1} {size + 1}l{-size - 1} {size + 1}"
        f"l{-size - 1} {-size - 1}z",
    )
    return tag(
        "path", tag("title", note), d=shapes[hue % len(shapes)], class_=f"point hue{hue % HUES}"
    )


def short(name: str, longest: int = _LONGEST_NAME) -> str:
    """Returns a name, its middle left out if it is too long.

    Example:
        >>> short("abcdefghij", 5)
        'ab…ij'
    """
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[: longest - 1 - half]}…{name[-half:]}"


def _legend(names: Sequence[str]) -> list[Html]:
    parts = []
    for row, placed in enumerate(_legend_rows(names)):
        for hue, x in placed:
            y = _TOP + _LEGEND_ROW * row + 2
            parts += [
                tag(
                    "path", d=f"M{_at(x)} {y}h26", class_=f"curve hue{hue % HUES}",
                    stroke_dasharray=DASHES[hue % len(DASHES)],
                ),
                point(x + 13, y, hue, names[hue]),
                words(x + 32, y + 4, short(names[hue]), "tick"),
            ]  # fmt: skip
    return parts


def _legend_rows(names: Sequence[str]) -> list[list[tuple[int, float]]]:
    """Returns, for each row of the legend, which names are in it and where they begin."""
    rows: list[list[tuple[int, float]]] = []
    x = float(WIDTH)
    for hue, name in enumerate(names):
        width = 32 + _CHARACTER * len(short(name)) + 16
        if not rows or x + width > WIDTH:
            rows.append([])
            x = _LEFT
        rows[-1].append((hue, x))
        x += width
    return rows


def _round_numbers(low: float, high: float, whole: bool = False) -> list[float]:
    if high <= low:
        return [low]
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    step = max(round(step), 1) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _at(value: float) -> str:
    return text(f"{value:.1f}".removesuffix(".0"))
