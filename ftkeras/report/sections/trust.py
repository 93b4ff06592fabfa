"""How far the numbers can be relied on: calibration, robustness, freezing, export."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from ftkeras.inputs.registry import DEFAULT, KINDS, make_input
from ftkeras.report.chart import reliability_chart
from ftkeras.report.html import (
    Child,
    Html,
    definitions,
    details,
    interval,
    missing,
    number,
    table,
    tag,
)
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command


def calibration(facts: RunFacts) -> Section:
    """Returns reliability diagrams before and after temperature scaling."""
    title, results = "Calibration", (facts.evaluation or {}).get("calibration") or {}
    if not results.get("before"):
        sentence = "Calibration was not measured;"
        return Section("calibration", title, missing(sentence, evaluate_command(facts)))
    temperature = (facts.evaluation or {}).get("temperature")
    names = {"before": "As trained", "after": "After temperature scaling"}
    charts = [
        tag("figure", reliability_chart(results[key]["bins"], title=name))
        for key, name in names.items()
        if results.get(key)
    ]
    rows = [
        [name, number(results[key]["ece"], ".4f"), number(results[key]["nll"], ".4f")]
        for key, name in names.items()
        if results.get(key)
    ]
    header = ["", "Calibration error (ECE)", "Log loss (NLL)"]
    lead = (
        "Is an answer with a confidence of 0.8 right eight times in ten? If columns end on the "
        "dashed diagonal, it is. Below it the model is overconfident, above it underconfident. The "
        "small columns at the bottom show how the answers are spread."
    )
    if isinstance(temperature, (int, float)):
        lead += (
            f" One number, the temperature {temperature:.3f}, fitted on validation {facts.nouns}, "
            "divides the logits (Guo et al. 2017). It changes confidences, not answers."
        )
        errors = [results[key]["ece"] for key in names if results.get(key)]
        if len(errors) == 2 and errors[1] > errors[0]:
            lead += f" On these {facts.nouns} it did not lower the calibration error."
    body = [tag("div", charts, class_="charts"), table("Calibration in numbers", header, rows)]
    if "after" not in results:
        body.append(
            missing(
                f"There is no temperature: it is fitted on validation {facts.nouns}, which this "
                "run has not measured;", evaluate_command(facts, "val"),
            )
        )  # fmt: skip
    return Section("calibration", title, body, lead)


def can_be_corrupted(facts: RunFacts) -> bool:
    """Whether `ftkeras robustness` can measure a run; of kinds of others this is not known."""
    kind = facts.data.get("input", DEFAULT)
    return kind not in KINDS or make_input(kind).ability("corruptions") is not None


def robustness(facts: RunFacts) -> Section:
    """Returns the accuracy under each corruption and severity, and under each shift."""
    title, results = "Robustness", facts.robustness
    if not results or not results.get("corruptions"):
        command = shlex.join(["ftkeras", "robustness", facts.folder])
        sentence = "Accuracy under noise, blur and bad weather was not measured;"
        return Section("robustness", title, missing(sentence, command))
    ends = results.get("intervals") or {}
    summary = [
        (name, [number(results[key], ".1%"), _between(ends.get(key))])
        for key, name in (
            ("clean", "Clean accuracy"),
            ("mean_corruption_accuracy", "Mean under corruption"),
            ("relative", "Share that is left"),
        )
        if isinstance(results.get(key), float)
    ]
    corruptions = {name: levels for name, levels in results["corruptions"].items() if levels}
    most = max(map(len, corruptions.values()), default=0)
    rows = [
        [
            name.replace("_", " "),
            *(_shaded(level) for level in levels),
            *([None] * (most - len(levels))),
            _shaded(sum(levels) / len(levels)),
        ]
        for name, levels in corruptions.items()
    ]
    header = ["Corruption", *range(1, most + 1), "Mean"]
    lead = (
        f"Accuracy on {results.get('examples', 0):,} {results.get('split', '')} {facts.nouns}, "
        "corrupted in each way at rising severity (Hendrycks and Dietterich 2019), and shifted. "
        "The fuller a cell's colour, the better."
    )
    shifts = [[name.replace("_", " "), _shaded(v)] for name, v in results.get("shifts", {}).items()]
    tables = [
        table("Accuracy by corruption and severity", header, rows, class_="heat"),
        table("Accuracy by shift", ["Shift", "Accuracy"], shifts, class_="heat")
        if shifts
        else None,
    ]
    body = [definitions(summary), tag("div", tables, class_="beside")]
    return Section("robustness", title, body, lead)


def proof(facts: RunFacts) -> Section:
    """Returns what the audit found of frozen and trained weights."""
    title, audit = "What was frozen", facts.plan.get("audit")
    if not audit:
        sentence = (
            "The audit is written to plan.json when training ends, and there is none yet; run"
        )
        command = "ftkeras train --config=FILE --out=RUN"
        return Section("frozen", title, missing(sentence, command))
    rows = [
        [
            tag("span", name, class_="long"),
            tag("td", _verdict(verdict)),
            verdict.get("frozen"),
            len(verdict.get("drifted", ())),
            verdict.get("trained"),
            len(verdict.get("unmoved", ())),
        ]
        for name, verdict in audit.items()
    ]
    header = [
        "Phase", "Verdict", "Frozen, unchanged", "Frozen, but changed", "To train, moved",
        "To train, but unmoved",
    ]  # fmt: skip
    lead = (
        "Every variable's fingerprint, statistics of batch normalisation among them, was taken "
        "before each phase and compared after it. A frozen weight that changes by one bit counts."
    )
    lists = [
        details(
            f"{name}: {len(names)} {what}", tag("ul", [tag("li", tag("code", n)) for n in names])
        )
        for name, verdict in audit.items()
        for what, names in (
            ("frozen variables that changed", verdict.get("drifted", ())),
            ("weights to train that did not move", verdict.get("unmoved", ())),
        )
        if names
    ]
    return Section("frozen", title, [table("The audit of each phase", header, rows), lists], lead)


def exported(facts: RunFacts) -> Section:
    """Returns how each exported format compares with the model that was measured."""
    title = "Export"
    if facts.certificate is None:
        sentence = (
            "There is no certificate that the exported model answers as this one does; export it "
            "with"
        )
        return Section(
            "export", title, missing(sentence, shlex.join(["ftkeras", "export", facts.folder]))
        )
    rows = [
        [
            name,
            number(_largest(check.get("max_difference")), ".1e"),
            number(check.get("tolerance"), ".1e"),
            number(check.get("accuracy_drop"), "+.1%"),
            *(number(_latency(check, batch), ".1f") for batch in ("1", "32")),
            number(check["size_bytes"] / 1e6 if "size_bytes" in check else None, ",.1f"),
        ]
        for format_name, certificate in facts.certificate.items()
        for name, check in _checks(format_name.replace("_", " "), certificate)
    ]
    header = [
        "Format", "Largest difference", "Allowed", "Accuracy lost", "Batch of 1 (ms)",
        "Batch of 32 (ms)", "Size (MB)",
    ]  # fmt: skip
    lead = (
        f"Each exported format answered the same {facts.nouns} as the Keras model, the SavedModel "
        "in a process of its own; differences are of scores between 0 and 1. The rest is in "
        "certificate.json."
    )
    body: list[Child] = [table("Exported formats beside the model", header, rows)]
    limits = [certificate["limits"] for certificate in facts.certificate.values()
              if isinstance(certificate, dict) and "limits" in certificate]  # fmt: skip
    body += [tag("p", limit) for limit in limits[:1]]
    return Section("export", title, body, lead)


def _checks(name: str, certificate: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every comparison within a format's certificate, with what was compared."""
    if not isinstance(certificate, dict):
        return
    if "max_difference" in certificate:
        yield name, certificate
        return
    for key, inside in certificate.items():
        own = key.replace("_", " ")
        yield from _checks(name if own == name else f"{name}: {own}", inside)


def _largest(difference: Any) -> float | None:
    """Returns the largest of a comparison's differences: it has one, or one a signature."""
    values = difference.values() if isinstance(difference, dict) else [difference]
    return max((v for v in values if isinstance(v, (int, float))), default=None)


def _latency(check: dict[str, Any], batch: str) -> float | None:
    """Returns the milliseconds that a batch takes; of a SavedModel, with decoding."""
    latencies = check.get("latency_ms") or {}
    latencies = latencies.get("serving_default", latencies)
    return latencies.get(batch)


def _verdict(verdict: dict[str, Any]) -> Html:
    if verdict.get("drifted"):
        return tag("span", "✗ frozen weights changed", class_="bad")
    return tag("span", "✓ frozen weights held", class_="good")


def _between(ends: list[float] | None) -> Child:
    return tag("div", interval(ends), class_="between") if ends else None


def _shaded(share: Any) -> Html:
    style = f"--share:{share:.3f}" if isinstance(share, (int, float)) else None
    return tag("td", number(share, ".1%"), class_="number", style=style)
