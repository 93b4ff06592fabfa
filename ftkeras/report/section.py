"""What a section of a page is."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ftkeras.report.html import Child, Html, tag
from ftkeras.report.read import RunFacts


@dataclass(frozen=True)
class Section:
    """A part of a page that the table of contents names.

    Args:
        anchor: Its address in the page.
        title: Its heading.
        body: What is in it.
        lead: A sentence or two on how to read it.
    """

    anchor: str
    title: str
    body: Child
    lead: str = ""

    def html(self) -> Html:
        """Returns the section as markup."""
        return tag(
            "section",
            tag("h2", self.title, id=f"{self.anchor}-title"),
            tag("p", self.lead, class_="lead") if self.lead else None,
            self.body,
            id=self.anchor,
            aria_labelledby=f"{self.anchor}-title",
        )


def evaluate_command(facts: RunFacts, split: str | None = None) -> str:
    """Returns the command that measures a run."""
    command = ["ftkeras", "evaluate", facts.folder, *([f"--split={split}"] if split else [])]
    return shlex.join(command)
