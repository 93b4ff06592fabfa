"""The lines that a run prints when it starts and when it ends."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftkeras.console import counted, duration, printable, table
from ftkeras.data.dataset import Data
from ftkeras.data.reasons import sum_up
from ftkeras.data.spelling import plain
from ftkeras.outputs.kinds import answered
from ftkeras.phases.audit import AuditResult

_SHOWN = (
    "val_loss", "val_accuracy", "val_label_accuracy", "val_auc", "val_mae", "loss", "accuracy",
)  # fmt: skip

_MOST_CLASSES = 30  # named before training
_WIDTH = 100  # characters per line


def start_lines(data: Data, backbone: str, device: str, notes: Sequence[str]) -> str:
    """Returns what is worth reading before training starts.

    Args:
        data: The data set.
        backbone: Its name, weights and size, in words.
        device: What it runs on, in words.
        notes: Sentences for the user.
    """
    parts = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
    lines = [
        f"data      {data.source}: {parts}; {answered(data.outputs)}",
        *_class_lines(data),
        f"backbone  {backbone}",
        f"device    {device}",
        *(f"note      {note}" for note in notes),
    ]
    if data.bad_files:
        left_out = f"{counted(len(data.bad_files), data.bad_files[0].noun)} left out"
        lines.append(f"note      {left_out}: {sum_up(data.bad_files)}")
    return "\n".join(lines)


def _class_lines(data: Data) -> Iterator[str]:
    """Yields what each class is called and how many examples train it, and names that look alike.

    A folder that is spelt in two ways is two classes, which a person sees only in the names.
    """
    names = [printable(name) for name in data.class_names]
    if not names:
        return
    each = [f"{n} {count}" for n, count in zip(names, data.splits["train"].counts, strict=True)]
    more = [f"and {len(each) - _MOST_CLASSES} more"] if len(each) > _MOST_CLASSES else []
    text = ", ".join([*each[:_MOST_CLASSES], *more]) + " (examples to train on)"
    yield textwrap.fill(
        text,
        _WIDTH,
        initial_indent="classes   ",
        subsequent_indent=" " * 10,
        break_long_words=False,
        break_on_hyphens=False,
    )
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(plain(name), []).append(name)
    for several in alike.values():
        if len(several) > 1:
            spelt = " and ".join(map(repr, several))
            yield f"note      classes {spelt} look like one name in several spellings: are they?"


def end_lines(
    folder: str,
    records: Sequence[dict[str, Any]],
    result: str,
    verdicts: Mapping[str, AuditResult],
    epoch: str,
    paths: Mapping[str, str | None],
    seconds: float,
    trunk: Sequence[dict[str, Any]] = (),
) -> str:
    """Returns a table of phases, the result, and where everything lies.

    Args:
        folder: The run's folder.
        records: The lines of `metrics.jsonl`.
        result: How good the model is, in a line.
        verdicts: What the audit found, by phase.
        epoch: Whose weights were taken, such as "best epoch 3"; empty if nothing was trained.
        paths: Where more was written, by what it is; None if it was not.
        seconds: How long it all took.
        trunk: What was expected of storing the trunk, and what happened: `trunk` of `plan.json`.
    """
    phases: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        phases.setdefault(record["phase"], []).append(record)
    shown = [name for name in _SHOWN if records and name in records[0]][:3]
    rows = [
        (
            name,
            len(inside),
            *(f"{inside[-1][metric]:.4f}" for metric in shown),
            duration(sum(record["seconds"] for record in inside)),
        )
        for name, inside in phases.items()
    ]
    lines = [
        "",
        *([table(rows, ("phase", "epochs", *shown, "time")), ""] if rows else []),
        result,
        (f"{epoch}; " if epoch else "") + f"{duration(seconds)} in all",
        *(_audit_line(name, verdict) for name, verdict in verdicts.items()),
        *(_trunk_line(row) for row in trunk if row["stored"] and "seconds" in row),
        "",
        f"model       {folder}/model.keras",
        *(f"{what:10}  {path}" for what, path in paths.items() if path),
        f"record      {folder}/ (plan.json, metrics.jsonl, evaluation.json, logs/, ...)",
        "",
        f"next        ftkeras evaluate {shlex.quote(folder)}",
    ]
    return "\n".join(lines)


def _audit_line(phase: str, verdict: AuditResult) -> str:
    still = f", {len(verdict.unmoved)} to train did not move" if verdict.unmoved else ""
    return (
        f"audit of {phase}: {counted(verdict.frozen, 'frozen variable')} unchanged to the bit, "
        f"{counted(verdict.trained, 'trained one')} moved{still}"
    )


def _trunk_line(row: Mapping[str, Any]) -> str:
    phase, maker = row["phase"], row.get("made_in") or row["phase"]
    shared = "" if maker == phase else f" with that of {maker}"
    return (
        f"trunk of {phase}: stored{shared}, {duration(row['seconds'])} with all epochs; expected "
        f"{duration(row['seconds_with'])}, and {duration(row['seconds_without'])} without a store"
    )
