"""Charts: valid SVG with the points where they belong."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from ftkeras.report.axes import Axis, short
from ftkeras.report.chart import Curve, Span, interval_chart, line_chart, reliability_chart

LABELS = {"title": "t", "x": Axis("x"), "y": Axis("y")}
SVG = "{http://www.w3.org/2000/svg}"


def points(svg: str, curve: int = 0) -> list[tuple[float, float]]:
    found = re.findall(rf'd="M([^"]*)" class="curve hue{curve}"', svg)
    return [tuple(map(float, pair.split())) for pair in found[-1].split("L")]


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_points_are_spread_over_the_axes():
    svg = line_chart([Curve("c", [0, 5, 10], [1, 3, 2])], **{**LABELS, "title": "a < b"})
    root = ET.fromstring(svg)
    (x0, y0), (x1, y1), (x2, y2) = points(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 > y2 > y1  # SVG counts downwards
    assert (y0 - y2) / (y0 - y1) == pytest.approx(0.5, abs=0.01)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "a < b. c goes from 1 to 2"


def test_a_logarithmic_axis_has_powers_of_ten_and_a_mark_its_value():
    curve = Curve("c", [1e-4, 1e-2, 1], [1, 1, 1])
    svg = line_chart([curve], **{**LABELS, "x": Axis("x", log=True)}, mark=1e-2)
    (x0, _), (x1, _), (x2, _) = points(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert {"0.0001", "0.01", "1"} <= set(words(svg))
    assert f'x1="{x1:g}"' in svg.split('class="mark"')[0].rsplit("<line", 1)[1]


def test_curves_differ_by_more_than_colour_and_are_named():
    svg = line_chart([Curve("one", [1, 2], [3, 4]), Curve("two", [1, 2], [4, 3])], **LABELS)
    assert {"one", "two"} <= set(words(svg))
    drawn = re.findall(r'class="curve hue(\d)"( stroke-dasharray="[^"]+")?', svg)
    assert {hue: dashes for hue, dashes in drawn} == {"0": "", "1": ' stroke-dasharray="7 4"'}


@pytest.mark.parametrize("ys", [[], [float("nan")], [2.0], [2.0, float("inf"), 2.0]])
def test_few_flat_and_broken_values_still_give_a_chart(ys):
    svg = line_chart([Curve("c", list(range(len(ys))), ys)], **LABELS)
    ET.fromstring(svg)
    assert "nan" not in svg and "inf" not in svg


def test_phases_are_named_and_told_apart():
    stretches = [Span("head", 0.5, 2.5), Span("a phase of a very long name", 2.5, 4.5)]
    svg = line_chart([Curve("c", [1, 2, 3, 4], [1, 2, 3, 4])], **LABELS, stretches=stretches)
    named = words(svg)
    assert "head" in named
    assert any("…" in word for word in named)
    assert svg.count('class="band"') == 1


def test_a_file_brings_its_own_colours_and_a_page_does_not():
    given = [Curve("c", [1, 2], [3, 4])]
    assert "prefers-color-scheme" in line_chart(given, **LABELS, standalone=True)
    assert "<style>" not in line_chart(given, **LABELS)


def test_columns_of_a_reliability_diagram_are_as_high_as_the_share_that_is_right():
    bins = [
        {"n": 0, "confidence": None, "accuracy": None},
        {"n": 30, "confidence": 0.9, "accuracy": 0.5},
        {"n": 10, "confidence": 0.95, "accuracy": 1.0},
    ]
    root = ET.fromstring(reliability_chart(bins, title="t"))
    heights = [
        float(r.get("height"))
        for r in root.iter(f"{SVG}rect")
        if r.get("class").startswith("column")
    ]
    assert heights[0] == pytest.approx(heights[1] / 2, abs=0.1)
    assert root.get("aria-label").count("answers with confidence") == 2


def test_intervals_lie_under_one_another():
    entries = [("a", 0.5, (0.4, 0.6)), ("b", 0.7, None)]
    root = ET.fromstring(interval_chart(entries, title="t", x_label="accuracy"))
    [whisker] = [e for e in root.iter(f"{SVG}line") if e.get("class") == "whisker"]
    assert float(whisker.get("x2")) > float(whisker.get("x1"))
    heights = [
        float(e.get("y")) for e in root.iter(f"{SVG}text") if (e.text or "")[:2] in ("a:", "b:")
    ]
    assert heights[1] > heights[0] + 20


def test_a_long_name_loses_its_middle():
    assert short("abcdefghij", 5) == "ab…ij"
    assert short("abcde", 5) == "abcde"


def test_a_logarithmic_height_leaves_out_what_is_not_above_zero():
    curve = Curve("c", [1, 2, 3, 4], [0.01, 0.0, -1.0, 1.0])
    svg = line_chart([curve], title="t", x=Axis("x"), y=Axis("y", log=True))
    (_, low), (_, high) = points(svg)
    assert low > high
    assert "c goes from 0.01 to 1" in svg
