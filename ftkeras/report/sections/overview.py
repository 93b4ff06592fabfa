"""What a person wants to know first: what was made, how good it is, what stands out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftkeras.console import counted, duration
from ftkeras.evaluation.copies import copies_lines
from ftkeras.evaluation.floor import floor_lines
from ftkeras.measures.results import lacking
from ftkeras.outputs.classes import Classes
from ftkeras.outputs.kinds import told
from ftkeras.report.gallery import label_suspects
from ftkeras.report.html import Child, Html, missing, tag
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command
from ftkeras.report.sections.classes import confusion_of, most_confused

# name in evaluation.json: what people call it, whether it is a share, what it means
METRICS = {
    "accuracy": ("Accuracy", True, "answers that are right"),
    "top_5_accuracy": ("Top-5 accuracy", True, "right class among the five likeliest"),
    "label_accuracy": ("Label accuracy", True, "single labels that are right"),
    "macro_f1": ("Macro-F1", False, "precision and recall, each class alike"),
    "micro_f1": ("Micro-F1", False, "precision and recall over all labels"),
    "mean_average_precision": ("Mean AP", False, "average precision over the classes"),
    "auc": ("AUC", False, "how well scores rank, over the classes"),
    "nll": ("Log loss", False, "of the right answer, in nats; lower is better"),
    "ece": ("Calibration error", False, "gap between confidence and accuracy"),
    "mae": ("Mean absolute error", False, "in the units of the data; lower is better"),
    "rmse": ("Root mean squared error", False, "large errors count more; lower is better"),
    "r2": ("R squared", False, "share of the variance that the answers explain"),
    "baseline_mae": ("Error of the mean", False, "if the answer was always training's mean"),
}


def described(facts: RunFacts) -> str:
    """Returns one sentence: what was fine-tuned on what."""
    backbone, data = facts.config.get("backbone", {}), facts.config.get("data", {})
    weights = facts.data.get("weights") or backbone.get("weights", "imagenet")
    examples = facts.data.get("examples", {}).get("train")
    count = f"{examples:,} {facts.nouns}" if examples else facts.nouns
    where = data.get("path") or data.get("name") or data.get("source", "")
    classes, output = len(facts.class_names), facts.output
    if isinstance(output, Classes):
        kinds = f" of {classes} classes" if classes else ""
        kinds = kinds if output.exclusive else f" with {classes} labels"
    else:
        kinds = f" to answer {told(facts.outputs)}," if facts.outputs else ""
    size = facts.size
    return (
        f"{backbone.get('name', 'A backbone')} ({weights} weights) fine-tuned on {count}{kinds}"
        f" from {where}" + (f", at {size} px" if size else "")
    )


def shown_metric(name: str, value: float | None) -> str:
    """Returns a metric's value as the page writes it."""
    if value is None:
        return "-"
    return f"{value:.1%}" if METRICS.get(name, ("", False, ""))[1] else f"{value:.3f}"


def overview(facts: RunFacts) -> Section:
    """Returns the headline numbers and what stands out."""
    evaluation = facts.evaluation
    if evaluation is None:
        body: Child = missing(
            "This run was not measured: evaluation.json is missing. Finish the run, or measure it "
            "with", evaluate_command(facts),
        )  # fmt: skip
    else:
        tiles = [
            _tile(name, evaluation[name], (evaluation.get("intervals") or {}).get(name))
            for name in METRICS
            if isinstance(evaluation.get(name), (int, float))
        ]
        body = [
            tag("p", _measured_on(facts) + " The 95% interval is under its number." * bool(tiles)),
            tag("div", tiles, class_="tiles"),
        ]
    highlights = list(findings(facts))
    listed = [tag("h3", "What stands out"), tag("ul", [tag("li", f) for f in highlights])]
    return Section("summary", "Summary", [body, listed if highlights else None])


def _measured_on(facts: RunFacts) -> str:
    """Returns a sentence on the examples of the results, and what training knew of them."""
    evaluation = facts.evaluation or {}
    if facts.split == "train":
        return (
            f"Measured on the training {facts.nouns}, because there are no others: these results "
            "are too optimistic."
        )
    measured = f"Measured on {evaluation.get('examples', 0):,} {facts.split} {facts.nouns}"
    copies = facts.data.get("copies", {})
    if lines := copies_lines(evaluation):
        return f"{measured}. " + " ".join(f"{line[0].upper()}{line[1:]}." for line in lines)
    if copies is None:
        return f"{measured}. Whether some are copies of training {facts.nouns} was not looked for."
    if count := copies.get(facts.split, 0):
        return f"{measured}; {count:,} of them are exact copies of {facts.nouns} of other splits."
    return f"{measured}, which took no part in training."


def findings(facts: RunFacts) -> Iterator[Child]:
    """Yields sentences about what a reader should not miss."""
    state = facts.status.get("state")
    if state and state != "finished":
        error = facts.status.get("error")
        yield [tag("strong", f"The run is {state}."), f" {error}" if error else ""]
    evaluation = facts.evaluation or {}
    for line in floor_lines(evaluation):
        yield f"{line[0].upper()}{line[1:]}."
    if facts.refit is not None:
        yield (
            f"The model was trained once more in the end, on all {facts.refit['examples']:,} "
            f"training and validation {facts.nouns}; curves are of the training before."
        )
    if sentence := lacking(evaluation):
        yield tag("strong", f"{sentence[0].upper()}{sentence[1:]}.")
    rows = [r for r in evaluation.get("per_class", ()) if isinstance(r.get("f1"), float)]
    if len(rows) > 1:
        best, worst = (pick(rows, key=lambda row: row["f1"]) for pick in (max, min))
        ties = sum(row["f1"] == best["f1"] for row in rows) - 1
        also = f" and {ties} more" if ties else ""
        yield [
            "Best class: ", tag("strong", best["name"]), f"{also} (F1 {best['f1']:.2f}); weakest: ",
            tag("strong", worst["name"]), f" (F1 {worst['f1']:.2f}, from {worst['support']} "
            f"{facts.nouns}).",
        ]  # fmt: skip
    yield from _confused(facts)
    yield from _calibrated(evaluation)
    suspects = sum(len(label_suspects(facts, split)) for split in ("val", "test"))
    if suspects:
        examples = sum(len(p.ids) for s, p in facts.predictions.items() if s != "train")
        yield [
            f"{suspects} of {examples:,} held-out {facts.nouns} contradict their label: ",
            tag("a", "some may be labelled wrongly", href="#labels"), ".",
        ]  # fmt: skip
    audit = facts.plan.get("audit")
    if audit:
        drifted = [name for verdict in audit.values() for name in verdict.get("drifted", ())]
        yield (
            f"{counted(len(drifted), 'frozen variable')} changed, which should not happen."
            if drifted
            else "Every frozen weight is, to the bit, what it was before each phase."
        )
    seconds = sum(record.get("seconds", 0.0) for record in facts.records)
    if seconds:
        yield f"{counted(len(facts.records), 'epoch')} took {duration(seconds)}."


def _tile(name: str, value: float, interval: list[float] | None) -> Html:
    title, _, meaning = METRICS[name]
    shown = [shown_metric(name, end) for end in interval or ()]
    between = f"{shown[0]} to {shown[1]}" if len(shown) == 2 else None
    return tag(
        "div",
        tag("div", title, class_="name"),
        tag("div", shown_metric(name, value), class_="value"),
        tag("div", between, class_="interval") if between else None,
        tag("div", meaning, class_="meaning"),
        class_="tile",
    )


def _confused(facts: RunFacts) -> Iterator[Child]:
    matrix = confusion_of(facts)
    if matrix is None:
        return
    for truth, answer, count in most_confused(matrix, 1):
        names = facts.class_names
        yield [
            "Most often confused: ", tag("strong", names[truth]), " taken for ",
            tag("strong", names[answer]), f", {count} of {matrix[truth].sum()} times.",
        ]  # fmt: skip


def _calibrated(evaluation: dict[str, Any]) -> Iterator[str]:
    temperature = evaluation.get("temperature")
    if isinstance(temperature, float):
        if temperature > 1.05:
            lean = "overconfident"
        elif temperature < 0.95:
            lean = "underconfident"
        else:
            lean = "well calibrated"
        yield f"By the validation split, the model is {lean} (temperature {temperature:.2f})."
