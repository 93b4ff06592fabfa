"""Fine-tuning against the floor: what a linear model on frozen features says of the same split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ftkeras.evaluation.comparison import compare_predictions
from ftkeras.evaluation.predictions import Predictions, load_predictions, saved
from ftkeras.measures.bootstrap import bootstrap, interval, share_interval
from ftkeras.outputs.base import Output
from ftkeras.outputs.classes import Classes
from ftkeras.outputs.number import Number
from ftkeras.run import Run

_COUNTS = "logistic regression without a network"


def predictions_name(split: str, output: str | None = None) -> str:
    """Returns under which name a run keeps the floor's answers."""
    return "-".join(["floor", split, *([] if output is None else [output])])


def counts_name(split: str) -> str:
    """Returns under which name a run keeps the answers of the classifier of counts."""
    return f"counts-{split}"


def with_floor(
    evaluation: dict[str, Any], run: Run, outputs: Mapping[str, Output]
) -> dict[str, Any]:
    """Returns an evaluation with `floor` in it, or in each of `heads`, if the run has a floor.

    `floor` holds the floor's metric (accuracy, or mae of a number) with its interval, and the
    difference that fine-tuning made: `difference` (model - floor), its 95% `difference_interval`
    of pairs, and `noise`: whether 0 is in that. `counts` holds the same of `runs.counts`.
    """
    if not outputs:
        return evaluation
    if saved(run, kept := counts_name(evaluation["split"])):
        counts, model = load_predictions(run, kept), load_predictions(run, evaluation["split"])
        [output] = outputs.values()
        if len(model.labels) and np.array_equal(counts.ids, model.ids):
            evaluation = {**evaluation, "counts": against_floor(output, counts, model)}
    split, alone = evaluation["split"], len(outputs) == 1
    parts = {}
    for name, output in outputs.items():
        own = None if alone else name
        kept = predictions_name(split, own)
        if not saved(run, kept):
            return evaluation
        model = load_predictions(run, split if alone else f"{split}-{name}")
        floor = load_predictions(run, kept)
        if len(model.labels) and np.array_equal(floor.ids, model.ids):
            parts[name] = against_floor(output, floor, model)
    if alone:
        return {**evaluation, "floor": next(iter(parts.values()))} if parts else evaluation
    heads = {
        name: {**part, **({"floor": parts[name]} if name in parts else {})}
        for name, part in evaluation["heads"].items()
    }
    return {**evaluation, "heads": heads}


def against_floor(output: Output, floor: Predictions, model: Predictions) -> dict[str, Any]:
    """Returns what `with_floor` puts in, for one output.

    Args:
        output: What is answered.
        floor: The floor's answers.
        model: The model's answers to the same examples.
    """
    if isinstance(output, Classes):
        pair = compare_predictions(floor, model, output.class_names)
        accuracy = pair["accuracy"][0]
        return {
            "accuracy": accuracy,
            "interval": share_interval(accuracy, pair["examples"]),
            "difference": pair["difference"],
            "difference_interval": pair["interval"],
            "noise": pair["noise"],
        }
    assert isinstance(output, Number)
    truth = output.in_units(model.labels)[:, 0]
    before, after = (np.abs(output.in_units(p.logits)[:, 0] - truth) for p in (floor, model))

    def means(drawn: np.ndarray) -> list[float]:
        return [float(drawn @ errors / drawn.sum()) for errors in (before, after - before)]

    mae, difference = bootstrap(means, len(truth)).T
    ends = interval(difference) or [0.0, 0.0]
    return {
        "mae": float(before.mean()),
        "interval": interval(mae),
        "difference": float((after - before).mean()),
        "difference_interval": ends,
        "noise": ends[0] <= 0 <= ends[1],
    }


def sentence(
    part: Mapping[str, Any],
    name: str = "floor",
    what: str = "a linear model on frozen features",
    who: str = "fine-tuning",
) -> str:
    """Returns in one sentence what a model gained over the floor or another baseline.

    Example:
        >>> sentence({"accuracy": 0.85, "difference": 0.031, "difference_interval": [0.01, 0.052],
        ...           "noise": False}).partition("; ")[2]
        'fine-tuning gained 3.1 points (95% interval 1.0 to 5.2)'
    """
    share = "accuracy" in part
    value = part["accuracy"] if share else part["mae"]
    low, high = part["difference_interval"]
    gained = part["difference"]
    if share:
        low, high, gained = 100 * low, 100 * high, 100 * gained
    else:
        low, high, gained = -high, -low, -gained  # of an error, less is better
    unit = " points" if share else ""
    digits = ".1f" if share else ".3g"
    span = f"95% interval {low:{digits}} to {high:{digits}}"
    what = f"{name} {value:.4f} ({what})"
    if max(abs(low), abs(high), abs(gained)) < 1e-6 * max(1.0, abs(value)):
        return f"{what}; the model equals it"
    if part["noise"]:
        return f"{what}; the difference is noise ({gained:+{digits}}{unit}, {span})"
    verb = "gained" if gained > 0 else "lost"
    return f"{what}; {who} {verb} {abs(gained):{digits}}{unit} ({span})"


def floor_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Returns the sentence of each output that has a floor, and one on the classifier of counts."""
    if "heads" in evaluation:
        parts = {name: part.get("floor") for name, part in evaluation["heads"].items()}
        return [f"{name}: {sentence(part)}" for name, part in parts.items() if part]
    # A model that may answer by counts, too, does not owe all of its gain to fine-tuning.
    who = "the model" if "counts" in evaluation else "fine-tuning"
    lines = [sentence(evaluation["floor"], who=who)] if "floor" in evaluation else []
    if "counts" in evaluation:
        lines.append(sentence(evaluation["counts"], "counts", _COUNTS, who))
    return lines
