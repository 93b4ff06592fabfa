"""What a report says of each of several outputs, and of numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ftkeras.outputs.number import Number
from ftkeras.report.chart import scatter_chart
from ftkeras.report.html import Child, missing, number, table, tag
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
_POINTS = 1000  # in a chart
_WORST = 20  # in the table of errors


def of_outputs(facts: RunFacts) -> Sequence[Section]:
    """Returns a table of several outputs and the sections of each; or those of a number."""
    if isinstance(facts.output, Number):
        return [numbers(facts)]
    if facts.output is not None or facts.data.get("heads") == []:
        return []
    heads = (facts.evaluation or {}).get("heads")
    if not heads:
        sentence = "The outputs were not measured;"
        return [Section("outputs", "Outputs", missing(sentence, evaluate_command(facts)))]
    lead = (
        f"One network answers all of them. Each is measured on the {facts.nouns} whose answer is "
        "known; below each number stands its 95% bootstrap interval."
    )
    sections = [Section("outputs", "Outputs", _table(facts, heads), lead)]
    for name, result in heads.items():
        sections += _sections_of(facts.of(name), name, result)
    return sections


def numbers(facts: RunFacts) -> Section:
    """Returns answers beside the truth, and how far they are off."""
    title, results = "Numbers", facts.evaluation or {}
    [(name, output)] = facts.outputs.items()
    predictions = facts.predictions.get(facts.split)
    if "mae" not in results or predictions is None or not isinstance(output, Number):
        sentence = "The numbers were not measured;"
        return Section("numbers", title, missing(sentence, evaluate_command(facts)))
    truth, answers = (output.in_units(x)[:, 0] for x in (predictions.labels, predictions.logits))
    shown = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), _POINTS)).astype(int))
    chart = scatter_chart(
        truth[shown], answers[shown], title=f"Answers beside the truth: {name}",
        x_label=f"{name}, true", y_label=f"{name}, answered",
    )  # fmt: skip
    rows: list[list[Child]] = [
        ["The model", _with_interval(results, "mae", ".4g"), _with_interval(results, "rmse", ".4g"),
         _with_interval(results, "r2", ".4f")],
        ["Always the mean of training", number(results.get("baseline_mae"), ".4g"),
         number(results.get("baseline_rmse"), ".4g"), "-"],
    ]  # fmt: skip
    header = ["", *(_COLUMNS[metric][0] for metric in ("mae", "rmse", "r2"))]
    lead = (
        f"{name} on the {facts.split} {facts.nouns} whose answer is known, in the units of the "
        "data. Answers on the dashed line are right."
    )
    if len(shown) < len(truth):
        lead += f" {len(shown):,} of {len(truth):,} are drawn."
    whole = table("Errors, with 95% bootstrap intervals", header, rows)
    tables = [
        _by_quarter(truth, answers, facts.nouns),
        _worst(predictions.ids, truth, answers, facts.noun),
    ]
    return Section("numbers", title, [tag("figure", chart), whole, tables], lead)


def _by_quarter(truth: np.ndarray, answers: np.ndarray, nouns: str) -> Child:
    edges = np.quantile(truth, [0, 0.25, 0.5, 0.75, 1])
    quarter = np.clip(np.searchsorted(edges, truth, side="left") - 1, 0, 3)
    rows: list[list[Child]] = []
    for i in range(4):
        error = (answers - truth)[quarter == i]
        if len(error):
            span = f"{edges[i]:.4g} to {edges[i + 1]:.4g}"
            rows.append([span, len(error), number(np.abs(error).mean(), ".4g"),
                         number(error.mean(), "+.4g")])  # fmt: skip
    header = ["True", nouns.capitalize(), "Mean absolute error", "Mean error"]
    return table("Errors by quarter of the truth", header, rows)


def _worst(ids: np.ndarray, truth: np.ndarray, answers: np.ndarray, noun: str) -> Child:
    worst = np.argsort(-np.abs(answers - truth), kind="stable")[:_WORST]
    rows = [
        [tag("span", str(ids[i]), class_="long"), number(truth[i], ".4g"),
         number(answers[i], ".4g"), number(answers[i] - truth[i], "+.4g")]
        for i in worst
    ]  # fmt: skip
    header = [noun.capitalize(), "True", "Answer", "Off by"]
    return table("The largest errors", header, rows, tall=True)


def _table(facts: RunFacts, heads: Mapping[str, Any]) -> Child:
    shown = [c for c in _COLUMNS if any(c in result for result in heads.values())]
    weights = {n: w for n in heads if (w := _weight(facts, n)) is not None}
    counted = facts.nouns.capitalize()
    header = ["Output", "Answers with", counted, *(_COLUMNS[c][0] for c in shown)]
    rows: list[list[Child]] = []
    for name, result in heads.items():
        row: list[Child] = [name, _KINDS[result["kind"]], number(result["examples"], ",")]
        row += [_with_interval(result, c, _COLUMNS[c][1]) for c in shown]
        rows.append(row + ([number(weights.get(name), ".3g")] if weights else []))
    header += ["Weight of its loss, last epoch"] if weights else []
    return table(f"The outputs on the {facts.split} {facts.nouns}", header, rows)


def _with_interval(result: Mapping[str, Any], metric: str, form: str) -> Child:
    if metric not in result:
        return "-"
    bounds = result.get("intervals", {}).get(metric)
    value = "-" if result[metric] is None else format(result[metric], form)
    return f"{value} ({bounds[0]:{form}} to {bounds[1]:{form}})" if bounds else value


def _weight(facts: RunFacts, name: str) -> float | None:
    """Returns how much the output's loss counted in the last epoch."""
    last = facts.records[-1] if facts.records else {}
    if f"{name}_weight" in last:
        return float(last[f"{name}_weight"])
    asked = (facts.config.get("outputs") or {}).get(name)
    heads = (facts.config.get("multi_task") or {}).get("heads") or ()
    rows = [asked, *(row for row in heads if row.get("name") == name)]
    return next((float(row["weight"]) for row in rows if isinstance(row, dict)), None)


def _sections_of(facts: RunFacts, name: str, result: Mapping[str, Any]) -> Iterator[Section]:
    """Yields the sections that a report has if there is no other output."""
    made = (numbers,) if result["kind"] == "number" else (per_class, confusion, calibration)
    for make in made if result["examples"] else ():
        section = make(facts)
        yield dataclasses.replace(
            section, anchor=f"{section.anchor}-{name}", title=f"{name}: {section.title.lower()}"
        )
