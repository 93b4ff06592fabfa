"""The outputs of a run: by the name of their kind, and as `data.json` tells of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftkeras.console import counted
from ftkeras.errors import UserError
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.base import Output
from ftkeras.outputs.classes import Classes
from ftkeras.outputs.number import Number
from ftkeras.outputs.one_of import OneOf

KINDS: dict[str, type[Output]] = {kind.kind: kind for kind in (OneOf, AnyOf, Number)}
SOURCE = "label"
"""What the only output is called if no config names it: it is what the source's labels say."""


def facts_of(outputs: Mapping[str, Output]) -> dict[str, Any]:
    """Returns what `data.json` holds of the outputs.

    The only output of classes needs its classes alone, as it has had since version 0.1.
    """
    only = only_output(outputs)
    if isinstance(only, Classes):
        return {"class_names": list(only.class_names), "multi_label": not only.exclusive}
    rows = [
        {
            "name": name,
            "kind": output.kind,
            "class_names": list(output.class_names),
            "mean": getattr(output, "mean", 0.0),
            "scale": getattr(output, "scale", 1.0),
        }
        for name, output in outputs.items()
    ]
    return {"class_names": list(group_names(outputs)), "multi_label": True, "heads": rows}


def outputs_of(facts: Mapping[str, Any]) -> dict[str, Output]:
    """Returns the outputs that a run's `data.json` tells of."""
    rows = facts.get("heads")
    if rows == []:  # a task whose answers are of its own
        return {}
    if not rows:
        kind = AnyOf.kind if facts.get("multi_label") else OneOf.kind
        return {SOURCE: classes_of(kind, facts.get("class_names", ()))}
    return {
        row["name"]: Number(row["mean"], row["scale"])
        if row["kind"] == Number.kind
        else classes_of(row["kind"], row["class_names"])
        for row in rows
    }


def classes_of(kind: str, class_names: Iterable[str]) -> Classes:
    """Returns the output of a kind, "classes" or "labels", with these classes."""
    names = tuple(class_names)
    return AnyOf(names) if kind == AnyOf.kind else OneOf(names)


def group_names(outputs: Mapping[str, Output]) -> tuple[str, ...]:
    """Returns the names of what examples are grouped by: the classes; of several outputs, all.

    Example:
        >>> group_names({"kind": OneOf(("bag", "shoe")), "age": Number()})
        ('kind=bag', 'kind=shoe')
    """
    if len(outputs) == 1:
        return next(iter(outputs.values())).class_names
    return tuple(sorted(f"{n}={c}" for n, output in outputs.items() for c in output.class_names))


def only_output(outputs: Mapping[str, Output]) -> Output | None:
    """Returns the only output; None if there are several."""
    return next(iter(outputs.values())) if len(outputs) == 1 else None


def only_classes(outputs: Mapping[str, Output], who: str, *, exclusive: bool = False) -> Classes:
    """Returns the only output, one of classes or labels.

    Args:
        outputs: The outputs by name.
        who: What needs it, for the error.
        exclusive: Whether exactly one class has to be right.

    Raises:
        UserError: There are several outputs, or the only one is of another kind.
    """
    only = only_output(outputs)
    if not isinstance(only, Classes) or (exclusive and not only.exclusive):
        kind = ", which is one of several classes" if exclusive else " of classes or labels"
        raise UserError(f"{who}: it takes one output{kind}, not {told(outputs)}.")
    return only


def answered(outputs: Mapping[str, Output]) -> str:
    """Returns what is answered, for one line: how many classes, or the outputs in words."""
    if not outputs:
        return "no labels"
    only = only_output(outputs)
    return (
        counted(only.units, "class", "classes")
        if isinstance(only, Classes)
        else f"outputs {told(outputs)}"
    )


def told(outputs: Mapping[str, Output]) -> str:
    """Returns the outputs in words.

    Example:
        >>> told({"kind": OneOf(("bag", "shoe")), "age": Number()})
        "'kind' (classes), 'age' (number)"
    """
    return ", ".join(f"{name!r} ({output.kind})" for name, output in outputs.items())
