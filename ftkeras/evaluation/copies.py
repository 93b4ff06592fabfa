"""What a result is without the examples that are copies of examples in other splits."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.data.copies import FILE
from ftkeras.evaluation.predictions import load_predictions, saved
from ftkeras.measures.results import main_metric
from ftkeras.outputs.base import Output
from ftkeras.run import Run

_METRICS = ("accuracy", "mae")


def with_copies(
    evaluation: dict[str, Any], run: Run, outputs: Mapping[str, Output]
) -> dict[str, Any]:
    """Returns an evaluation with `without_copies` in it, or in each of `heads`, if there are any.

    It holds `copies`, how many examples are copies; `of`, the splits of their originals;
    `examples`, how many are left; and the metric (accuracy, or mae of a number) of these, with its
    `interval`.
    """
    split = evaluation["split"]
    originals = _originals(run, split)
    if not originals or not outputs:
        return evaluation
    if len(outputs) == 1:
        [output] = outputs.values()
        return _without(evaluation, output, run, split, originals)
    heads = {
        name: _without(part, outputs[name], run, f"{split}-{name}", originals)
        for name, part in evaluation["heads"].items()
    }
    return {**evaluation, "heads": heads}


def _originals(run: Run, split: str) -> dict[str, str]:
    """Returns the split of each copy's original, by the copy's id."""
    if not tf.io.gfile.exists(run.path(FILE)):
        return {}
    rows = csv.reader(io.StringIO(run.read_text(FILE), newline=""))
    return {row[1]: row[2] for row in rows if row[0] == split}


def _without(
    part: dict[str, Any], output: Output, run: Run, kept: str, originals: Mapping[str, str]
) -> dict[str, Any]:
    if not saved(run, kept):
        return part
    answers = load_predictions(run, kept)
    copied = np.array([key in originals for key in answers.ids.tolist()], bool)
    if not copied.any() or len(copied) != part.get("examples"):
        return part
    found: dict[str, Any] = {
        "copies": int(copied.sum()),
        "of": sorted({originals[key] for key in answers.ids[copied].tolist()}),
        "examples": int((~copied).sum()),
    }
    if not copied.all():
        labels, logits = answers.labels[~copied], answers.logits[~copied]
        results = output.measure(labels, logits, temperature=part.get("temperature", 1.0))
        if named := main_metric(results, _METRICS):
            found |= {named[0]: named[1], "interval": results["intervals"][named[0]]}
    return {**part, "without_copies": found}


def copies_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Returns a sentence per output on the copies among the examples of a result.

    Example:
        >>> copies_lines({"split": "test", "nouns": "texts", "examples": 20, "without_copies": {
        ...     "copies": 3, "of": ["train"], "examples": 17, "accuracy": 0.75}})
        ['3 of 20 test texts are exact copies of texts in train; without them accuracy 0.7500']
    """
    if "heads" in evaluation:
        heads = evaluation["heads"].items()
        told = {name: _sentence(part, evaluation) for name, part in heads}
        return [f"{name}: {line}" for name, line in told.items() if line]
    line = _sentence(evaluation, evaluation)
    return [line] if line else []


def _sentence(part: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    found = part.get("without_copies")
    if not found:
        return ""
    nouns = evaluation.get("nouns", "examples")
    counts = f"{found['copies']:,} of {part['examples']:,} {evaluation['split']} {nouns}"
    sentence = f"{counts} are exact copies of {nouns} in {' and '.join(found['of'])}"
    named = main_metric(found, _METRICS)
    if named is None:
        return sentence
    ends = found.get("interval")
    between = f" (95% interval {ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    return f"{sentence}; without them {named[0]} {named[1]:.4f}{between}"
