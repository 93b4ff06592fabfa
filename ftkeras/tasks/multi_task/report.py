"""What a report says of a model with several heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftkeras.report.html import Child, missing, number, table
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command
from ftkeras.report.sections.classes import confusion, per_class
from ftkeras.report.sections.trust import calibration

_COLUMNS = {
    "accuracy": ("Accuracy", ".4f"),
    "label_accuracy": ("Label accuracy", ".4f"),
    "macro_f1": ("Macro-F1", ".4f"),
    "mae": ("Mean absolute error", ".4g"),
    "rmse": ("Root mean squared error", ".4g"),
    "r2": ("R squared", ".4f"),
}
_KINDS = {"classes": "one of several classes", "labels": "any number of labels", "number": "number"}


def head_sections(facts: RunFacts) -> Sequence[Section]:
    """Returns a table of the heads, then what is known of each one's classes."""
    heads = (facts.evaluation or {}).get("heads")
    if not heads:
        sentence = "The heads were not measured;"
        return [Section("heads", "Heads", missing(sentence, evaluate_command(facts)))]
    lead = (
        "One network answers all of them. Each is measured on the images whose answer is known; "
        "below each number stands its 95% bootstrap interval."
    )
    sections = [Section("heads", "Heads", _table(facts, heads), lead)]
    for name, result in heads.items():
        sections += _sections_of(facts, name, result)
    return sections


def _table(facts: RunFacts, heads: Mapping[str, Any]) -> Child:
    shown = [c for c in _COLUMNS if any(c in result for result in heads.values())]
    weights = {n: w for n in heads if (w := _weight(facts, n)) is not None}
    header = ["Head", "Answers with", "Images", *(_COLUMNS[c][0] for c in shown)]
    rows: list[list[Child]] = []
    for name, result in heads.items():
        row: list[Child] = [name, _KINDS[result["kind"]], number(result["examples"], ",")]
        row += [_with_interval(result, c, _COLUMNS[c][1]) for c in shown]
        rows.append(row + ([number(weights.get(name), ".3g")] if weights else []))
    header += ["Weight of its loss, last epoch"] if weights else []
    return table(f"The heads on the {facts.split} images", header, rows)


def _with_interval(result: Mapping[str, Any], metric: str, form: str) -> Child:
    if metric not in result:
        return "-"
    bounds = result.get("intervals", {}).get(metric)
    value = "-" if result[metric] is None else format(result[metric], form)
    return f"{value} ({bounds[0]:{form}} to {bounds[1]:{form}})" if bounds else value


def _weight(facts: RunFacts, head: str) -> float | None:
    """Returns how much the head's loss counted in the last epoch."""
    last = facts.records[-1] if facts.records else {}
    if f"{head}_weight" in last:
        return float(last[f"{head}_weight"])
    heads = (facts.config.get("multi_task") or {}).get("heads") or ()
    return next((float(row["weight"]) for row in heads if row.get("name") == head), None)


def _sections_of(facts: RunFacts, name: str, result: Mapping[str, Any]) -> Iterator[Section]:
    """Yields the sections that a classifier's report has, for one head."""
    if not result.get("per_class"):
        return
    own = dataclasses.replace(
        facts,
        evaluation={"split": facts.split, **result},
        data={
            **facts.data,
            "class_names": [row["name"] for row in result["per_class"]],
            "multi_label": result["kind"] == "labels",
        },
        predictions={},
    )
    for make in (per_class, confusion, calibration):
        section = make(own)
        yield dataclasses.replace(
            section, anchor=f"{section.anchor}-{name}", title=f"{name}: {section.title.lower()}"
        )
