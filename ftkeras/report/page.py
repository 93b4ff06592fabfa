"""One HTML file about one run: nothing in it needs a network, a font or a script."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib import resources

from ftkeras.outputs.classes import Classes
from ftkeras.report.axes import STYLE
from ftkeras.report.html import Child, Html, tag
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section
from ftkeras.report.sections.classes import confusion, per_class
from ftkeras.report.sections.examples import label_errors, mistakes
from ftkeras.report.sections.learning import cost, curves, plan
from ftkeras.report.sections.origin import data, environment, repeat
from ftkeras.report.sections.outputs import of_outputs
from ftkeras.report.sections.overview import described, overview
from ftkeras.report.sections.trust import (
    calibration,
    can_be_corrupted,
    exported,
    proof,
    robustness,
)
from ftkeras.version import __version__

# In the order of a reader's questions: how good, how made, where it fails, whether to trust it.
SECTIONS = (
    overview, repeat, curves, plan, per_class, confusion, calibration, mistakes, label_errors,
    robustness, proof, cost, exported, data, environment,
)  # fmt: skip
# Only of a single output with classes; `of_outputs` makes what others have.
_OF_CLASSES = (per_class, confusion, calibration, mistakes, label_errors, robustness)

# No script can run and nothing can be loaded, whatever a class or a file may be called.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


def run_page(facts: RunFacts, more: Sequence[Section] = ()) -> Html:
    """Returns the report of one run.

    Args:
        facts: What `read_run` found in its folder.
        more: The task's own sections, which come second.
    """
    state = facts.status.get("state", "")
    when = str(facts.status.get("time", ""))[:16].replace("T", " ")
    kicker = " ".join(["ftkeras run", *([f"- {state} {when} UTC"] if state else [])])
    has_classes = isinstance(facts.output, Classes)
    left_out = set() if has_classes else set(_OF_CLASSES)
    if not can_be_corrupted(facts):
        left_out.add(robustness)
    first, *rest = (make(facts) for make in SECTIONS if make not in left_out)
    return page(facts.name, kicker, described(facts), [first, *of_outputs(facts), *more, *rest])


def page(title: str, kicker: str, subtitle: Child, sections: Sequence[Section]) -> Html:
    """Returns a whole document.

    Args:
        title: Its heading.
        kicker: What kind of thing it is about; small print over the heading.
        subtitle: A sentence under the heading.
        sections: Its sections, in order.
    """
    style = resources.files("ftkeras.report").joinpath("page.css").read_text(encoding="utf-8")
    links = [tag("li", tag("a", s.title, href=f"#{s.anchor}")) for s in sections]
    made = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} - ftkeras report"),
        tag("style", Html(style + STYLE)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", class_="skip", href="#content"),
        tag(
            "div",
            tag("header", tag("p", kicker, class_="state"), tag("h1", title), tag("p", subtitle)),
            tag("nav", tag("h2", "On this page"), tag("ul", links), aria_label="On this page"),
            tag("main", [section.html() for section in sections], id="content", tabindex="-1"),
            tag("footer", f"Made by ftkeras {__version__}, {made}."),
            class_="layout",
        ),
    )
    return Html("<!doctype html>\n" + tag("html", head, body, lang="en") + "\n")
