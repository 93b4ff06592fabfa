"""HTML from Python values, in which text cannot become markup by accident."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


class Html(str):
    """Text that is markup already; what is only a `str` is escaped when it is put into a tag."""

    __slots__ = ()


class Number(Html):
    """A number as people write it: columns of these align right."""

    __slots__ = ()


Child = Any  # Html, str, a number, None (nothing), or a list of them

# What HTML cannot hold, and what would turn the reading direction of the text around it.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_VOID = {"img", "meta", "br"}


def text(value: Child) -> Html:
    """Returns a value as escaped text; what is `Html` stays, None is nothing."""
    if value is None:
        return Html("")
    if isinstance(value, Html):
        return value
    if isinstance(value, (list, tuple)):
        return Html("".join(text(part) for part in value))
    return Html(escape(_UNSAFE.sub("\ufffd", str(value))))


def tag(name: str, /, *children: Child, **attributes: Any) -> Html:
    """Returns an element.

    Args:
        name: The element's name.
        *children: What is inside.
        **attributes: A trailing underscore is dropped (`class_`), others become hyphens. None and
            False leave the attribute out, True gives it no value.

    Example:
        >>> tag("p", "a < b", tag("b", 1), class_="note")
        '<p class="note">a &lt; b<b>1</b></p>'
    """
    opening = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        opening += f" {key}" if value is True else f' {key}="{text(value)}"'
    if name in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{text(children)}</{name}>")


def join(parts: Iterable[Child], between: str = ", ") -> Html:
    """Returns parts with text between them."""
    return Html(text(between).join(text(part) for part in parts))


def number(value: Any, form: str = ".3f") -> Number:
    """Returns a number in a `format` form; a dash if there is none or it isn't finite."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return Number("-")
    return Number(format(value, form))


def interval(ends: Sequence[float] | None, form: str = ".1%") -> Number:
    """Returns an interval in words; a dash if there is none."""
    if not ends or len(ends) != 2:
        return Number("-")
    return Number(f"{number(ends[0], form)} to {number(ends[1], form)}")


def bar(value: Any, form: str = ".3f") -> Number:
    """Returns a share of 0..1 with a bar under it; a dash if there is none."""
    shown = number(value, form)
    return shown if shown == "-" else filled(shown, float(value))


def filled(shown: Child, share: float) -> Number:
    """Returns a number, as it is shown, with a bar under it as long as its share of 0..1."""
    style = f"--share:{min(max(share, 0.0), 1.0):.3f}"
    return Number(tag("span", shown, class_="bar", style=style))


def table(
    caption: str,
    header: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    tall: bool = False,
    class_: str | None = None,
    groups: Sequence[tuple[Child, int]] = (),
) -> Html:
    """Returns a table in a box of its own, which scrolls if it is too wide.

    The first cell of each row is its header. Columns of numbers align right.

    Args:
        caption: What the table shows.
        header: A title for each column.
        rows: Its cells; one that is a `td` already is taken as it is.
        tall: Whether the box scrolls up and down, too.
        class_: A class for the table.
        groups: Titles over several columns each, and how many; None for a title over no group.
    """
    listed = [list(row) for row in rows]
    align = [
        "number" if _is_numeric([row[i] for row in listed]) else None for i in range(len(header))
    ]
    titles = [tag("th", t, scope="col", class_=c) for t, c in zip(header, align, strict=True)]
    body = [tag("tr", [_cell(i, cell, align[i]) for i, cell in enumerate(row)]) for row in listed]
    over = [
        tag("th", title, scope="colgroup", colspan=span, class_="group")
        if title is not None
        else tag("td", colspan=span)
        for title, span in groups
    ]
    whole = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", over) if groups else None, tag("tr", titles)),
        tag("tbody", body),
        class_=class_,
    )
    return scrolling(whole, caption, tall=tall)


def scrolling(inside: Child, label: str, *, tall: bool = False) -> Html:
    """Returns a box that scrolls by itself and that the keyboard can reach."""
    classes = "scroll tall" if tall else "scroll"
    return tag("div", inside, class_=classes, role="region", aria_label=label, tabindex="0")


def definitions(pairs: Iterable[tuple[Child, Child]]) -> Html:
    """Returns a list of names and values."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs])


def details(summary: Child, *inside: Child) -> Html:
    """Returns something that opens on demand."""
    return tag("details", tag("summary", summary), inside)


def missing(sentence: str, command: str | None = None) -> Html:
    """Returns the sentence that is shown if nothing is known, and the command that changes that."""
    return tag("p", sentence, [" ", tag("code", command)] if command else None, class_="missing")


def _is_numeric(values: Sequence[Child]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(
        isinstance(value, (int, float, Number)) and not isinstance(value, bool) for value in known
    )


def _cell(index: int, value: Child, align: str | None) -> Html:
    if isinstance(value, Html) and value.startswith("<td"):
        return value
    if index == 0:
        return tag("th", value, scope="row", class_=align)
    return tag("td", "-" if value is None else value, class_=align)
