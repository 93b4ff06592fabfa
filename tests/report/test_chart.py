"""Charts: valid SVG with the points where they belong."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from ftkeras.report.chart import line_chart


def points(svg: str) -> list[tuple[float, float]]:
    found = re.search(r'polyline points="([^"]*)"', svg)
    assert found
    return [tuple(map(float, pair.split(","))) for pair in found[1].split()]


def test_points_are_spread_over_the_axes():
    svg = line_chart([0, 5, 10], [1, 3, 2], title="a < b", x_label="x", y_label="y")
    ET.fromstring(svg)
    (x0, y0), (x1, y1), (x2, y2) = points(svg)
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 > y2 > y1  # SVG counts downwards
    assert "a &lt; b" in svg


def test_a_logarithmic_axis_has_powers_of_ten():
    svg = line_chart(
        [1e-4, 1e-2, 1], [1, 1, 1], title="t", x_label="x", y_label="y", log_x=True, mark=1e-2
    )
    (x0, _), (x1, _), (x2, _) = points(svg)
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert ">0.0001<" in svg
    assert 'stroke-dasharray="4"/><text x="' in svg
