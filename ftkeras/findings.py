"""What the doctor found, and how it is told: to people, as JSON, as a table of all evidence."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ftkeras.console import counted
from ftkeras.errors import UserError
from ftkeras.files import write_out

Severity = Literal["error", "warning", "note"]

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_SHOWN = 3  # pieces of evidence printed for a finding
_WIDTH = 98


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One file (or record, or class) that a finding is about.

    Args:
        name: The file, as `splits.csv` names it, or the class.
        split: The split it is in, or "".
        detail: What about it.
    """

    name: str
    split: str = ""
    detail: str = ""

    def __str__(self) -> str:
        subject = f"{self.split}: {self.name}" if self.split else self.name
        return f"{subject}  ({self.detail})" if self.detail else subject


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Args:
        severity: "error": fix it before you train. "warning": the result will probably
            suffer. "note": worth knowing.
        check: What was looked at, in a word or two.
        message: What was found, with numbers.
        remedy: What to do, in one sentence; empty if the message says it.
        evidence: All that it was found in; a few are printed.
    """

    severity: Severity
    check: str
    message: str
    remedy: str = ""
    evidence: tuple[Evidence, ...] = ()


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All that the doctor says.

    Args:
        facts: What was measured, by name, for people to read.
        findings: What was found, in any order.
    """

    facts: Mapping[str, str]
    findings: Sequence[Finding]

    @property
    def exit_status(self) -> int:
        """1 if there is an error, otherwise 0."""
        return int(any(finding.severity == "error" for finding in self.findings))

    def text(self) -> str:
        """Returns facts and findings as paragraphs, the gravest first."""
        width = max(map(len, self.facts), default=0) + 2
        facts = [
            "\n".join(_wrapped(value, name.ljust(width), " " * width))
            for name, value in self.facts.items()
        ]
        return "\n".join([*facts, "", *map(_paragraph, self._sorted()), self._verdict()])

    def as_json(self) -> dict[str, Any]:
        """Returns plain dicts and lists."""
        return {
            "facts": dict(self.facts),
            "findings": [
                {
                    **dataclasses.asdict(f),
                    "evidence": [dataclasses.asdict(row) for row in f.evidence],
                }
                for f in self._sorted()
            ],
            "exit_status": self.exit_status,
        }

    def write(self, path: str) -> None:
        """Writes every piece of evidence: a .csv file with a row for each, or a .json file.

        Raises:
            UserError: The path has another ending, or cannot be written.
        """
        check_out(path)
        content = json.dumps(self.as_json(), indent=1) + "\n"
        if path.lower().endswith(".csv"):
            content = self._csv()
        write_out(path, content)

    def _csv(self) -> str:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["severity", "check", "split", "name", "detail", "message", "remedy"])
        for finding in self._sorted():
            for row in finding.evidence or (Evidence(""),):
                about = (row.split, row.name, row.detail, finding.message, finding.remedy)
                writer.writerow([finding.severity, finding.check, *about])
        return stream.getvalue()

    def _sorted(self) -> list[Finding]:
        return sorted(self.findings, key=lambda finding: _ORDER.index(finding.severity))

    def _verdict(self) -> str:
        counts = [sum(f.severity == s for f in self.findings) for s in _ORDER]
        summary = ", ".join(
            counted(count, severity)
            for count, severity in zip(counts, _ORDER, strict=True)
            if count
        )
        if counts[0]:
            return f"{summary}. Fix the errors before you train."
        if counts[1]:
            return f"{summary}. Read the warnings; no error speaks against training."
        return f"{summary or 'nothing found'}. Nothing speaks against training."


def check_out(path: str) -> None:
    """Refuses an output file whose ending names no format, before any work is done."""
    if os.path.splitext(path)[1].lower() not in (".csv", ".json"):
        raise UserError(f"--out {path}: must end in .csv or .json.")


def percent(part: int, whole: int) -> str:
    """Returns a count with what share of the whole it is.

    Example:
        >>> percent(3, 200)
        '3 of 200 (1.5%)'
    """
    return f"{part:,} of {whole:,} ({part / max(whole, 1):.1%})"


def _paragraph(finding: Finding) -> str:
    lines = [
        f"{finding.severity.ljust(9)}{finding.check}",
        *_wrapped(finding.message, "  ", "  "),
        *(f"    {row}" for row in finding.evidence[:_SHOWN]),
    ]
    more = len(finding.evidence) - _SHOWN
    if more > 0:
        lines.append(f"    and {more:,} more (--out=FILE.csv lists all)")
    if finding.remedy:
        lines += _wrapped(f"-> {finding.remedy}", "  ", "     ")
    return "\n".join([*lines, ""])


def _wrapped(text: str, first: str, later: str) -> list[str]:
    """Breaks a text at spaces alone: addresses and paths stay whole."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
