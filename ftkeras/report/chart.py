"""Charts as SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftkeras.report.axes import (
    DASHES,
    HUES,
    Axis,
    Frame,
    box,
    draw,
    frame,
    line,
    point,
    short,
    words,
)
from ftkeras.report.html import Html, tag

_FOOT = 44  # pixels under a reliability diagram, for how many answers there are
_STRIP = 14  # pixels for a row of small print
_MOST_MARKERS = 40  # of a curve; more would run into one another


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Args:
        name: What the legend calls it.
        xs: Where the points lie, rising.
        ys: Their heights; what isn't finite is left out.
        joined: Whether a line goes through the points.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    joined: bool = True

    @property
    def points(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        return [(x, y) for x, y in zip(self.xs, self.ys, strict=True) if math.isfinite(y)]

    def above_zero(self) -> Curve:
        """Returns the curve without points whose height is 0 or less."""
        return replace(self, ys=[y if y > 0 else math.nan for y in self.ys])


@dataclass(frozen=True)
class Span:
    """A named part of the horizontal axis."""

    name: str
    start: float
    end: float


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    x: Axis,
    y: Axis,
    mark: float | None = None,
    mark_name: str = "",
    stretches: Sequence[Span] = (),
    standalone: bool = False,
) -> Html:
    """Returns a drawing of curves over one axis.

    Args:
        curves: The curves; one without a finite point is left out.
        title: What the drawing shows.
        x: The horizontal axis, whose ends follow from the data; a logarithmic one takes values
            above 0 only.
        y: The vertical axis; a logarithmic one leaves values out that are not above 0.
        mark: Where to draw a vertical line.
        mark_name: What the line marks; its value if left out.
        stretches: Parts of the horizontal axis to tell apart.
        standalone: Whether the drawing is to be a file of its own.

    Example:
        >>> line_chart([Curve("a", [1, 2], [3, 4])], title="t", x=Axis("x"), y=Axis("y"))[:4]
        '<svg'
    """
    curves = [curve.above_zero() for curve in curves] if y.log else curves
    drawn = [curve for curve in curves if curve.points]
    xs = [place[0] for curve in drawn for place in curve.points] or [0.0, 1.0]
    ys = [place[1] for curve in drawn for place in curve.points] or [0.0, 1.0]
    bounds = [edge for stretch in stretches for edge in (stretch.start, stretch.end)]
    area = frame(
        replace(x, ends=(min([*xs, *bounds]), max([*xs, *bounds]))),
        replace(y, ends=_with_room(min(ys), max(ys), y.log)),
        legend=[curve.name for curve in drawn] if len(drawn) > 1 else [],
        head=_STRIP if stretches else 0.0,
        under=0.0 if mark is None else _STRIP,
    )
    inside: list[Html] = []
    if mark is not None:
        at = area.x(mark)
        inside.append(line(at, area.top, at, area.bottom, "mark"))
        label = mark_name or f"{mark:.2g}"
        inside.append(words(at, area.bottom + 30, label, "tick", "middle"))
    for hue, curve in enumerate(drawn):
        inside += _drawn(curve, area, hue)
    bands, names = _bands(stretches, area)
    spans = ((curve.name, curve.points[0][1], curve.points[-1][1]) for curve in drawn)
    said = "; ".join(f"{name} goes from {first:.4g} to {last:.4g}" for name, first, last in spans)
    return draw(
        area,
        [*inside, *names],
        title=title,
        description=said or "No values",
        under=bands,
        standalone=standalone,
    )


def _drawn(curve: Curve, area: Frame, hue: int) -> list[Html]:
    """Returns a curve's line, and its points unless they are too many."""
    places = [(area.x(x), area.y(y)) for x, y in curve.points]
    drawn = []
    if curve.joined:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dashes = DASHES[hue % len(DASHES)]
        drawn.append(tag("path", d=path, class_=f"curve hue{hue % HUES}", stroke_dasharray=dashes))
    if len(places) <= _MOST_MARKERS or not curve.joined:
        about = f"{curve.name}, {area.x.axis.name}"
        notes = [f"{about} {x:g}: {y:.4g}" for x, y in curve.points]
        drawn += [point(*place, hue, note) for place, note in zip(places, notes, strict=True)]
    return drawn


def _bands(stretches: Sequence[Span], area: Frame) -> tuple[list[Html], list[Html]]:
    """Returns what tells stretches apart under the grid, and their names above it."""
    bands, names = [], []
    for index, stretch in enumerate(stretches):
        start, end = area.x(stretch.start), area.x(stretch.end)
        if index % 2:
            bands.append(box(start, area.top, end, area.bottom, "band"))
        if index:
            bands.append(line(start, area.top - 12, start, area.bottom, "edge"))
        limit = int((end - start) / 7)
        if limit > 2:
            names.append(words(start + 2, area.top - 5, short(stretch.name, limit), "tick"))
    return bands, names


def reliability_chart(bins: Sequence[Mapping[str, Any]], *, title: str) -> Html:
    """Returns a reliability diagram: how often answers of each confidence are right.

    Niculescu-Mizil and Caruana 2005. Columns that reach the diagonal are calibrated. The small
    columns under the axis are the shares of the answers.

    Args:
        bins: Of equal width, from confidence 0 to 1: `n`, `confidence` and `accuracy`, which are
            None if there is no answer.
        title: What the drawing shows.
    """
    area = frame(Axis("confidence"), Axis("share that is right"), foot=_FOOT)
    most = max((entry["n"] for entry in bins), default=0) or 1
    floor = area.y(0)
    inside: list[Html] = [words(area.left - 6, area.bottom - 4, "answers", "tick", "end")]
    for index, entry in enumerate(bins):
        if not entry["n"]:
            continue
        left, right = area.x(index / len(bins)) + 1.5, area.x((index + 1) / len(bins)) - 1.5
        note = tag(
            "title",
            f"confidence {entry['confidence']:.2f}: right in {entry['accuracy']:.0%} of "
            f"{entry['n']} answers",
        )
        inside.append(box(left, area.y(entry["accuracy"]), right, floor, "column hue0", note))
        foot = area.bottom - max((_FOOT - 8) * entry["n"] / most, 1)
        inside.append(box(left, foot, right, area.bottom, "count", note))
    inside.append(line(area.x(0), area.y(0), area.x(1), area.y(1), "reference"))
    sentences = (
        f"of {e['n']} answers with confidence {e['confidence']:.2f}, {e['accuracy']:.0%} are right"
        for e in bins
        if e["n"]
    )
    return draw(area, inside, title=title, description="; ".join(sentences))


def scatter_chart(
    truth: Sequence[float], answers: Sequence[float], *, title: str, x_label: str, y_label: str
) -> Html:
    """Returns a drawing of answers over what is true; right ones lie on the dashed diagonal.

    Args:
        truth: What is true, one number per example.
        answers: What was answered.
        title: What the drawing shows.
        x_label: The name of the horizontal axis.
        y_label: The name of the vertical axis.
    """
    low, high = min(*truth, *answers), max(*truth, *answers)
    ends = _with_room(low, high, False)
    area = frame(Axis(x_label, ends), Axis(y_label, ends))
    inside = [line(area.x(ends[0]), area.y(ends[0]), area.x(ends[1]), area.y(ends[1]), "reference")]
    inside += [
        point(area.x(x), area.y(y), 0, f"{x:.4g} answered as {y:.4g}", 2.4)
        for x, y in zip(truth, answers, strict=True)
    ]
    said = f"{len(truth)} answers, truth from {min(truth):.4g} to {max(truth):.4g}"
    return draw(area, inside, title=title, description=said)


def interval_chart(
    entries: Sequence[tuple[str, float, tuple[float, float] | None]], *, title: str, x_label: str
) -> Html:
    """Returns values with their intervals, one under the other.

    Args:
        entries: Name, value, and the interval's ends if it is known.
        title: What the drawing shows.
        x_label: What the values are.
    """
    ends = [v for _, value, interval in entries for v in (value, *(interval or ()))]
    values = Axis(x_label, _with_room(min(ends), max(ends), False))
    rows = Axis("", (len(entries) - 0.5, -0.5), ticks=False)
    area = frame(values, rows, height=90 + 40 * len(entries))
    inside = []
    for row, (name, value, interval) in enumerate(entries):
        y = area.y(row)
        if interval is not None:
            inside.append(
                tag("g", line(area.x(interval[0]), y, area.x(interval[1]), y, "whisker"),
                    class_=f"hue{row % HUES}")
            )  # fmt: skip
        label = f"{name}: {value:.3f}"
        inside.append(point(area.x(value), y, row, label, 4.5))
        inside.append(words(area.left + 2, y - 9, short(label, 48), "tick"))
    said = "; ".join(
        f"{n} {v:.3f}" + (f" ({i[0]:.3f} to {i[1]:.3f})" if i else "") for n, v, i in entries
    )
    return draw(area, inside, title=title, description=said)


def _with_room(low: float, high: float, log: bool) -> tuple[float, float]:
    """Returns a range with a little room, so that curves don't touch the frame."""
    if log:
        return low / 1.3, high * 1.3
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return (max(low - margin, 0.0) if low >= 0 else low - margin), high + margin
