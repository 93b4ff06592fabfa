"""One HTML file about several runs, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ftkeras.config.load import leaves
from ftkeras.console import duration
from ftkeras.report.axes import Axis
from ftkeras.report.chart import Curve, interval_chart, line_chart
from ftkeras.report.html import Child, Html, Number, bar, filled, missing, number, table, tag
from ftkeras.report.page import page
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command
from ftkeras.report.sections.learning import metrics_of
from ftkeras.report.sections.overview import METRICS, shown_metric

_TALL = 24  # rows that a table may have before it scrolls


def comparison_page(runs: Sequence[RunFacts]) -> Html:
    """Returns the report of several runs.

    Args:
        runs: What `read_run` found in their folders.
    """
    names = run_names(runs)
    sections = [
        _results(runs, names),
        _curves(runs, names),
        _classes(runs, names),
        _differences(runs, names),
        _cost(runs, names),
    ]
    title = f"{len(runs)} runs side by side"
    return page(title, "ftkeras comparison", ", ".join(names), sections)


def run_names(runs: Sequence[RunFacts]) -> list[str]:
    """Returns a name for each run: its folder's, or the whole path if two are alike."""
    names = [run.name for run in runs]
    return [r.folder if names.count(r.name) > 1 else r.name for r in runs]


def _results(runs: Sequence[RunFacts], names: Sequence[str]) -> Section:
    measured = [(n, run, run.evaluation) for n, run in zip(names, runs, strict=True)
                if run.evaluation is not None]  # fmt: skip
    lacking = [
        missing(f"{name} was not measured;", evaluate_command(run))
        for name, run in zip(names, runs, strict=True)
        if run.evaluation is None
    ]
    if not measured:
        return Section("results", "Results", lacking)
    shown = [m for m in METRICS if any(isinstance(e.get(m), float) for _, _, e in measured)]
    header = ["Run", *(METRICS[metric][0] for metric in shown)]
    rows = [
        [_described(run, name), *(_measure(e, metric) for metric in shown)]
        for name, run, e in measured
    ]
    charts = [
        tag("figure", _intervals([(n, e) for n, _, e in measured], metric))
        for metric in ("accuracy", "macro_f1", "mae")
        if metric in shown
    ]
    noun = runs[0].noun
    lead = (
        "Under each number stands its 95% bootstrap interval. Intervals that overlap do not settle "
        f"which run is better; ftkeras compare tests that, {noun} by {noun}."
    )
    body = [
        _same_examples(runs),
        tag("div", charts, class_="charts"),
        table("How good each run is", header, rows),
        lacking,
    ]
    return Section("results", "Results", body, lead)


def _measure(evaluation: dict[str, Any], metric: str) -> Number:
    ends = (evaluation.get("intervals") or {}).get(metric) or ()
    between = " to ".join(shown_metric(metric, end) for end in ends)
    value = tag("strong", shown_metric(metric, evaluation.get(metric)))
    return Number(value + tag("div", between, class_="between") if between else value)


def _intervals(measured: Sequence[tuple[str, dict[str, Any]]], metric: str) -> Html:
    entries = [
        (name, float(e[metric]), tuple((e.get("intervals") or {}).get(metric) or ()) or None)
        for name, e in measured
        if isinstance(e.get(metric), float)
    ]
    title = METRICS[metric][0]
    return interval_chart(entries, title=title, x_label=f"{title.lower()}, 95% interval")


def _described(run: RunFacts, name: str) -> list[Html]:
    """Returns a run's name, and in small print what it is and what it was measured on."""
    backbone, size = run.config.get("backbone", {}).get("name", ""), run.size
    examples = (run.evaluation or {}).get("examples", 0)
    small = [
        f"{backbone}, {size} px" if size else backbone,
        f"{examples:,} {run.split} {run.nouns}",
    ]
    return [tag("span", name, class_="long"), *(tag("div", s, class_="between") for s in small)]


def _same_examples(runs: Sequence[RunFacts]) -> Child:
    """Returns a warning if the runs were not measured on the same examples."""
    known = [set(map(str, p.ids)) for run in runs if (p := run.predictions.get(run.split))]
    if all(ids == known[0] for ids in known) and len({run.split for run in runs}) == 1:
        return None
    return tag(
        "p", tag("strong", f"These runs were not measured on the same {runs[0].nouns}"),
        ", so their numbers differ for that reason, too.",
    )  # fmt: skip


def _curves(runs: Sequence[RunFacts], names: Sequence[str]) -> Section:
    def curves(key: str) -> list[Curve]:
        return [
            Curve(
                name,
                [record["epoch"] + 1 for record in run.records if key in record],
                [record[key] for record in run.records if key in record],
            )
            for name, run in zip(names, runs, strict=True)
            if any(key in record for record in run.records)
        ]

    metrics = metrics_of([record for run in runs for record in run.records])
    charts = []
    for metric in metrics:
        held_out = curves(f"val_{metric}")
        kind, drawn = ("validation", held_out) if held_out else ("training", curves(metric))
        words = metric.replace("_", " ")
        title, epochs = f"{kind.capitalize()} {words}", Axis("epoch", whole=True)
        charts.append(line_chart(drawn, title=title, x=epochs, y=Axis(words)))
    shown: Child = tag("div", [tag("figure", chart) for chart in charts], class_="charts")
    if not charts:
        shown = missing("No epoch of these runs has ended.")
    lead = "Epochs count through all phases; runs with other phases change phase elsewhere."
    return Section("curves", "Learning curves", shown, lead)


def _classes(runs: Sequence[RunFacts], names: Sequence[str]) -> Section:
    per_run = [
        {row["name"]: row for row in (run.evaluation or {}).get("per_class", ())} for run in runs
    ]
    classes = list(dict.fromkeys(name for rows in per_run for name in rows))
    if not classes:
        return Section("classes", "Classes", missing("None of these runs was measured by class."))

    def spread(name: str) -> float:
        values = [rows[name]["f1"] for rows in per_run if rows.get(name, {}).get("f1") is not None]
        return max(values) - min(values) if values else -1.0

    ordered = sorted(classes, key=spread, reverse=True)
    rows = []
    for name in ordered:
        cells = [rows_.get(name, {}) for rows_ in per_run]
        f1s = [cell.get("f1") for cell in cells]
        best = max((f for f in f1s if f is not None), default=None)
        row: list[Child] = [tag("span", name, class_="long")]
        row.append(number(next((c["support"] for c in cells if c), None), ","))
        for cell, f1 in zip(cells, f1s, strict=True):
            row += [number(cell.get("precision")), number(cell.get("recall"))]
            leads = f1 is not None and f1 == best and f1s.count(best) < len(f1s)
            mark = tag("span", "▲" if leads else None, class_="lead-mark")
            row.append(Number((tag("strong", bar(f1)) if leads else bar(f1)) + mark))
        rows.append(row)
    header: list[Child] = ["Class", runs[0].nouns.capitalize()]
    header += ["Precision", "Recall", "F1"] * len(names)
    groups = [(None, 2), *((name, 3) for name in names)]
    lead = (
        "The classes on which the runs differ most come first; ▲ marks the best F1. "
        f"A class of few {runs[0].nouns} moves by chance."
    )
    listed = table(
        "Precision, recall and F1 by class", header, rows, tall=len(rows) > _TALL, groups=groups
    )
    return Section("classes", "Classes", listed, lead)


def _differences(runs: Sequence[RunFacts], names: Sequence[str]) -> Section:
    """Returns the fields of the configs that are not the same for all."""
    configs = [dict(leaves(run.config)) for run in runs]
    fields = dict.fromkeys(field for config in configs for field in config)
    differ = [f for f in fields if any(c.get(f) != configs[0].get(f) for c in configs)]
    if not differ:
        said = tag("p", "The configs are the same in every field.")
        return Section("configs", "What was different", said)
    rows = [[tag("code", f), *(_field(config.get(f)) for config in configs)] for f in differ]
    listed = table("Fields of the config that differ", ["Field", *names], rows)
    return Section("configs", "What was different", listed)


def _field(value: Any) -> Child:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return tag("span", ", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _cost(runs: Sequence[RunFacts], names: Sequence[str]) -> Section:
    def seconds(run: RunFacts) -> float:
        return float(sum(record.get("seconds", 0.0) for record in run.records))

    longest = max(map(seconds, runs)) or 1.0
    columns: dict[str, Callable[[RunFacts], Child]] = {
        "Epochs": lambda run: len(run.records),
        "Time in epochs": lambda run: filled(duration(seconds(run)), seconds(run) / longest),
        "Peak memory (MB)": lambda run: number(
            max((r.get("peak_memory_mb") or np.nan for r in run.records), default=None), ",.0f"
        ),
        "Numbers in the model": lambda run: number(run.plan.get("parameters"), ","),
        "Most that train": lambda run: number(
            max((phase["parameters"] for phase in run.phases), default=None), ","
        ),
        "Frozen weights": _frozen,
        "TensorFlow, Keras, processors": lambda run: ", ".join(
            str(run.environment[key]) for key in ("tensorflow", "keras", "processors")
            if key in run.environment
        ),
    }  # fmt: skip
    rows = [
        [tag("span", name, class_="long"), *(value(run) for value in columns.values())]
        for name, run in zip(names, runs, strict=True)
    ]
    return Section("cost", "Time and memory", table("What each run took", ["Run", *columns], rows))


def _frozen(run: RunFacts) -> Child:
    audit = run.plan.get("audit")
    if not audit:
        return "not audited"
    if any(verdict.get("drifted") for verdict in audit.values()):
        return tag("span", "✗ changed", class_="bad")
    return tag("span", "✓ held", class_="good")
