"""How training went: curves, the plan beside what happened, time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftkeras.console import duration
from ftkeras.report.axes import Axis
from ftkeras.report.chart import Curve, Span, line_chart
from ftkeras.report.html import Child, Html, Number, details, filled, missing, number, table, tag
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section

_LEFT_OUT = {"epoch", "phase", "seconds", "learning_rate", "peak_memory_mb"}
_TRAIN_AGAIN = "ftkeras train --config=FILE --out=RUN"


def curves(facts: RunFacts) -> Section:
    """Returns loss, metrics and learning rate by epoch, with the phases marked."""
    title, records = "Learning curves", facts.records
    if not records:
        sentence = "No epoch has ended yet, so there is no metrics.jsonl to draw from; run"
        return Section("curves", title, missing(sentence, _TRAIN_AGAIN))
    epochs = [record["epoch"] + 1 for record in records]
    stretches, best = phase_stretches(records), facts.plan.get("best_epoch")
    charts = []
    for metric in metrics_of(records):
        drawn = [
            Curve(name, epochs, [_finite(record.get(key)) for record in records])
            for key, name in ((metric, "training"), (f"val_{metric}", "validation"))
            if any(key in record for record in records)
        ]
        charts.append(
            line_chart(
                drawn,
                title=_titled(metric),
                x=Axis("epoch", whole=True),
                y=Axis(metric.replace("_", " ")),
                mark=None if best is None else best + 1,
                mark_name="kept",
                stretches=stretches,
            )
        )
    seen = [
        (epoch + 0.5, record["learning_rate"])
        for epoch, record in zip(epochs, records, strict=True)
        if record.get("learning_rate")
    ]
    rates = {"planned": planned_rates(facts), "seen at an epoch's end": seen}
    drawn = [
        Curve(name, [x for x, _ in points], [y for _, y in points], joined=name == "planned")
        for name, points in rates.items()
        if points
    ]
    if drawn:
        charts.append(
            line_chart(
                drawn,
                title="Learning rate of the head",
                x=Axis("epoch", whole=True),
                y=Axis("learning rate"),
                stretches=stretches,
            )
        )
    lead = (
        "Phases are named along the top. Training values are means over the epoch while the weights"
        " still move, and include dropout and augmentation; validation values are taken at its end."
    )
    shown = [tag("figure", chart) for chart in charts]
    return Section("curves", title, [tag("div", shown, class_="charts"), _numbers(facts)], lead)


def metrics_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the names of the metrics that were logged, loss first."""
    names = {key.removeprefix("val_") for record in records for key in record} - _LEFT_OUT
    return sorted(names, key=lambda name: (name != "loss", name))


def phase_stretches(records: Sequence[dict[str, Any]]) -> list[Span]:
    """Returns which epochs each phase took; edges lie between two epochs."""
    spans: list[Span] = []
    for record in records:
        epoch, name = record["epoch"] + 1, str(record.get("phase", ""))
        if spans and spans[-1].name == name:
            spans[-1] = Span(name, spans[-1].start, epoch + 0.5)
        else:
            spans.append(Span(name, epoch - 0.5, epoch + 0.5))
    return spans


def planned_rates(facts: RunFacts) -> list[tuple[float, float]]:
    """Returns the planned learning rate as (epoch, rate), from where each phase really began.

    An epoch stretches from half before its number to half after it.
    """
    starts = {stretch.name: stretch.start for stretch in phase_stretches(facts.records)}
    points: list[tuple[float, float]] = []
    for phase in facts.phases:
        rates = phase.get("rates") or ()
        epochs = phase["steps"] / (facts.plan.get("steps_per_epoch") or 1)
        if phase["name"] in starts:
            start, gaps = starts[phase["name"]], max(len(rates) - 1, 1)
            points += [(start + epochs * i / gaps, rate) for i, rate in enumerate(rates)]
    return points


def plan(facts: RunFacts) -> Section:
    """Returns the plan beside what happened, and which blocks each phase trained."""
    title = "Plan and outcome"
    if not facts.phases:
        return Section("plan", title, missing("plan.json is missing; run", _TRAIN_AGAIN))
    per_epoch = facts.plan.get("steps_per_epoch") or 1
    rows = []
    for phase in facts.phases:
        records = facts.records_of(phase["name"])
        rates = [record["learning_rate"] for record in records if "learning_rate" in record]
        planned = phase["steps"] / per_epoch
        rows.append(
            [
                tag("span", phase["name"], class_="long"),
                tag("span", ", ".join(phase["train"]), class_="long"),
                number(phase["parameters"], ","),
                phase["length"],
                number(planned, ".3g"),
                len(records),
                number(phase["peak_rate"], ".2g"),
                number(max(rates, default=None), ".2g"),
                number(rates[-1] if rates else None, ".2g"),
            ]
        )
    header = [
        "Phase", "Trains", "Numbers that train", "Planned length", "Epochs planned", "Epochs run",
        "Peak rate planned", "Highest rate seen", "Last rate seen",
    ]  # fmt: skip
    lead = (
        "The plan made before training, and what the run recorded. Rates are those of the head. "
        "They are recorded at the end of each epoch, so a peak in between is missed."
    )
    warnings = facts.plan.get("warnings") or ()
    body = [
        table("Each phase as planned and as it ran", header, rows),
        tag("ul", [tag("li", warning) for warning in warnings], class_="warnings")
        if warnings
        else None,
        _events(facts),
        _trunk(facts),
        _blocks(facts),
    ]
    return Section("plan", title, body, lead)


def cost(facts: RunFacts) -> Section:
    """Returns time and memory by phase."""
    title = "Time and memory"
    if not facts.records:
        sentence = "No epoch has ended yet, so nothing was timed; run"
        return Section("cost", title, missing(sentence, _TRAIN_AGAIN))
    names = list(dict.fromkeys(str(record.get("phase", "")) for record in facts.records))
    planned = {phase["name"]: phase for phase in facts.phases}
    total = sum(record.get("seconds", 0.0) for record in facts.records) or 1.0
    rows = []
    for name in names:
        records = facts.records_of(name)
        seconds = [record.get("seconds", 0.0) for record in records]
        peak = max((record.get("peak_memory_mb") or 0 for record in records), default=0)
        kept = planned.get(name, {}).get("activation_bytes")
        rows.append(
            [
                tag("span", name, class_="long"),
                len(records),
                filled(duration(sum(seconds)), sum(seconds) / total),
                Number(duration(sum(seconds) / len(seconds))),
                Number(duration(min(seconds))),
                number(peak or None, ",.0f"),
                number(None if kept is None else kept / 1e6, ",.1f"),
            ]
        )
    header = [
        "Phase", "Epochs", "Time", "Mean epoch", "Fastest epoch", "Peak memory (MB)",
        "Activations planned (MB)",
    ]  # fmt: skip
    lead = (
        "Each phase's first epoch also traces the graph. Peak memory is the most that the process "
        "had held by the phase's end, so it never falls; the planned activations are what the "
        "backward pass keeps of one batch."
    )
    bytes_ = facts.plan.get("optimizer_bytes")
    more = tag("p", f"The optimizer's state takes {bytes_ / 1e6:,.1f} MB.") if bytes_ else None
    body = [table("Time and memory by phase", header, rows), more]
    return Section("cost", title, body, lead)


def _blocks(facts: RunFacts) -> Html:
    """Returns which blocks each phase trained, at what rate; like neighbours share a row."""
    groups: list[
        tuple[list[str], int, tuple[str, ...]]
    ] = []  # names, numbers, what each phase does
    for index, block in enumerate(facts.phases[0]["blocks"]):
        states = tuple(_state(phase["blocks"][index]) for phase in facts.phases)
        if groups and groups[-1][2] == states:
            names, numbers, _ = groups.pop()
            groups.append(([*names, block["name"]], numbers + block["parameters"], states))
        else:
            groups.append(([block["name"]], block["parameters"], states))
    rows = [
        [
            names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} blocks)",
            number(numbers, ","),
            *(tag("td", s, class_="frozen" if s == "frozen" else "trains") for s in states),
        ]
        for names, numbers, states in groups
    ]
    caption = "Peak learning rate of each block, from the input to the head"
    header = ["Block", "Numbers", *(phase["name"] for phase in facts.phases)]
    return table(caption, header, rows, tall=len(rows) > 24)


def _state(block: dict[str, Any]) -> str:
    if not block["trained"]:
        return "frozen"
    # Weights of batch norm stay frozen in a block that trains; that is not worth a remark.
    share = block["trained"] / max(block["parameters"], 1)
    partly = f", {share:.0%} of it" if share < 0.95 else ""
    norm = ", batch norm live" if block["batch_norm"] == "training" else ""
    return f"{block['peak_rate']:.2g}{partly}{norm}"


def _numbers(facts: RunFacts) -> Html:
    names = metrics_of(facts.records)
    keys = [key for name in names for key in (name, f"val_{name}")]
    keys = [key for key in [*keys, "learning_rate"] if any(key in r for r in facts.records)]
    titles = [key.replace("val_", "validation ").replace("_", " ") for key in keys]
    rows = [
        [
            record["epoch"] + 1,
            record.get("phase"),
            *(number(record.get(key), ".3g" if key == "learning_rate" else ".4f") for key in keys),
            Number(duration(record.get("seconds", 0.0))),
        ]
        for record in facts.records
    ]
    header = ["Epoch", "Phase", *titles, "time"]
    return details("The numbers behind the curves", table("Each epoch", header, rows, tall=True))


def _events(facts: RunFacts) -> Child:
    """Returns what happened besides: rollbacks, for instance."""
    if not facts.events:
        return None
    keys = list(dict.fromkeys(key for event in facts.events for key in event))
    rows = [[_plain(event.get(key)) for key in keys] for event in facts.events]
    return table("What else happened", [key.replace("_", " ") for key in keys], rows, tall=True)


def _trunk(facts: RunFacts) -> Child:
    """Returns what was foretold of storing the trunk, and how long each phase took in the end."""
    rows = [row for row in facts.plan.get("trunk") or () if isinstance(row, dict)]
    if not rows:
        return None
    cells = [
        [
            tag("span", row.get("phase"), class_="long"),
            "stored" if row.get("stored") else "not stored",
            row.get("reason"),
            *(_seconds(row.get(key)) for key in ("seconds_without", "seconds_with", "seconds")),
            number((row.get("bytes") or 0) / 1e6, ",.1f"),
        ]
        for row in rows
    ]
    header = [
        "Phase", "Trunk", "Why", "Expected without a store", "Expected with one", "Took",
        "Store (MB)",
    ]  # fmt: skip
    return table("The frozen trunk: stored if that was expected to pay", header, cells)


def _seconds(value: Any) -> Number:
    return Number(duration(value) if isinstance(value, (int, float)) and value > 0 else "-")


def _plain(value: Any) -> Child:
    if isinstance(value, float):
        return number(value, ".4g")
    if isinstance(value, (list, dict)):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return value


def _finite(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _titled(metric: str) -> str:
    words = metric.replace("_", " ")
    return words.upper() if metric == "auc" else words[:1].upper() + words[1:]
