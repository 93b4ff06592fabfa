"""Markup: text stays text, whatever is in it."""

from __future__ import annotations

from html.parser import HTMLParser

from ftkeras.report.html import Html, Number, filled, interval, number, table, tag, text


class Reader(HTMLParser):
    """Collects a document's tags and text."""

    def __init__(self, markup: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def test_text_is_escaped_once_and_markup_is_left_alone():
    inner = tag("b", "<script>alert('&')</script>")
    outer = Reader(tag("p", "a & b ", inner, title='"<'))
    assert [name for name, _ in outer.tags] == ["p", "b"]
    assert outer.words == "a & b <script>alert('&')</script>"
    assert outer.tags[0][1] == {"title": '"<'}


def test_what_html_cannot_hold_and_what_turns_the_text_around_is_replaced():
    assert text("a\x00b\u202ec\ud800") == "a\ufffdb\ufffdc\ufffd"
    assert text("Käse 猫 \U0001f600") == "Käse 猫 \U0001f600"


def test_attributes_may_be_absent_bare_or_hyphenated():
    made = tag("img", alt="", loading=None, hidden=True, aria_label="x", class_="y")
    assert made == '<img alt="" hidden aria-label="x" class="y">'


def test_numbers_are_written_or_dashed():
    assert [number(v, ".2f") for v in (1.234, None, float("nan"), "x")] == ["1.23", "-", "-", "-"]
    assert interval([0.123, 0.456]) == "12.3% to 45.6%"
    assert interval(None) == "-"
    assert "--share:1.000" in filled("7", 7)


def test_a_table_has_headers_a_caption_and_aligns_numbers():
    made = table("Cats", ["Name", "Age", "Note"], [["Tom", Number("4"), "x"], ["Ann", 5, None]])
    reader = Reader(made)
    assert [a["scope"] for name, a in reader.tags if name == "th"] == ["col"] * 3 + ["row"] * 2
    assert reader.tags[0] == (
        "div", {"class": "scroll", "role": "region", "aria-label": "Cats", "tabindex": "0"}
    )  # fmt: skip
    assert made.count('class="number"') == 3  # the title and both cells of one column
    assert "caption" in {name for name, _ in reader.tags}
    assert "<td>-</td>" in made


def test_a_cell_of_markup_stands_as_it_is():
    made = table("c", ["a", "b"], [["x", tag("td", "y", class_="frozen")]])
    assert '<td class="frozen">y</td>' in made
    assert isinstance(made, Html)
