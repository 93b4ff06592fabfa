"""Where a run comes from: how to repeat it, its data, its machine."""

from __future__ import annotations

import os
import shlex

from ftkeras.console import counted
from ftkeras.outputs.classes import Classes
from ftkeras.outputs.kinds import told
from ftkeras.report.html import Child, Html, definitions, details, table, tag
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section

_BAD_FILES = 50  # how many are listed


def repeat(facts: RunFacts) -> Section:
    """Returns what to type to get the same run again."""
    command = facts.environment.get("command") or []
    body: list[Child] = []
    if command and os.path.basename(command[0]) in ("ftkeras", "__main__.py"):
        body += [tag("p", "It was started with"), _shell(["ftkeras", *command[1:]])]
    config = f"{facts.folder.rstrip('/')}/config.yaml"
    body += [
        tag("p", "The run's folder keeps the resolved config, so this repeats it:"),
        _shell(["ftkeras", "train", f"--config={config}", "--out=again"]),
        details(
            "The whole config",
            tag("pre", tag("code", facts.config_text), tabindex="0", aria_label="config.yaml"),
        ),
    ]
    seed = facts.config.get("seed", 0)
    lead = (
        f"The seed is {seed}: the order of {facts.nouns}, augmentation and fresh weights all "
        "follow from it. Some operations still round differently from run to run; "
        "training.deterministic makes them repeat to the bit."
    )
    return Section("repeat", "How to repeat it", body, lead)


def data(facts: RunFacts) -> Section:
    """Returns what the data were, and what was left out."""
    section = facts.config.get("data", {})
    kind = section.get("input") or {}
    examples = facts.data.get("examples", {})
    pairs: list[tuple[Child, Child]] = [
        ("Source", section.get("source")),
        *((key.capitalize(), section[key]) for key in ("path", "name") if section.get(key)),
        *((f"{name.capitalize()} {facts.nouns}", f"{count:,}") for name, count in examples.items()),
        *_answers(facts),
        *(
            [(f"{facts.noun.capitalize()} size", f"{facts.size} px, {kind.get('resize', '')}")]
            if facts.size
            else ()
        ),
        ("Augmentation", _augmentation(kind.get("augmentation"))),
        ("Balance", section.get("balance")),
    ]
    body: list[Child] = [definitions((n, v) for n, v in pairs if v not in (None, ""))]
    body += [tag("p", note) for note in facts.data.get("notes", ())]
    if facts.bad_files:
        caption = f"left out: {counted(len(facts.bad_files), 'file')}"
        if len(facts.bad_files) > _BAD_FILES:
            caption += f"; the first {_BAD_FILES} (bad_files.csv lists all)"
        rows = [[tag("span", p, class_="long"), why] for p, why in facts.bad_files[:_BAD_FILES]]
        body.append(table(caption, ["File", "Why"], rows, tall=len(rows) > 10))
    else:
        body.append(tag("p", "No file was left out."))
    return Section("data", "Data", body)


def _answers(facts: RunFacts) -> list[tuple[Child, Child]]:
    if not isinstance(facts.output, Classes):
        return [("Outputs", told(facts.outputs))] if facts.outputs else []
    labels = "one" if facts.output.exclusive else "any number"
    return [("Classes", len(facts.class_names)), (f"Labels per {facts.noun}", labels)]


def environment(facts: RunFacts) -> Section:
    """Returns the machine and its software."""
    entries = {k: v for k, v in facts.environment.items() if k != "command"}
    if not entries:
        return Section("environment", "Environment", tag("p", "environment.json is missing."))
    pairs = (
        (key.replace("_", " "), ", ".join(map(str, v)) if isinstance(v, list) else str(v))
        for key, v in entries.items()
    )
    return Section("environment", "Environment", definitions(pairs))


def _shell(arguments: list[str]) -> Html:
    return tag("pre", tag("code", shlex.join(arguments)), class_="command")


def _augmentation(value: object) -> Child:
    if isinstance(value, list):
        return ", ".join(str(layer.get("name")) for layer in value if isinstance(layer, dict))
    return None if value is None else str(value)
