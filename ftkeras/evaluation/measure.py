"""A run's model, measured on a split of the run's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ftkeras.data.dataset import Split
from ftkeras.data.feed import Feed
from ftkeras.evaluation.predict import predict_split
from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.evaluation.refit import temperatures_before_refit, was_refitted
from ftkeras.outputs.base import Output, Reading
from ftkeras.run import Run


def measure(
    model: keras.Model,
    feed: Feed,
    run: Run,
    split: str,
    temperatures: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Returns what `evaluation.json` holds; keeps the answers it rests on in `predictions/`.

    Each output is measured on the examples whose answer is known. Of several outputs, `heads` has
    the results of each, and the answers are kept in `predictions/SPLIT-OUTPUT.npz`. Temperatures
    are fitted on the validation split, if there is one and no temperatures are passed. A run that
    was trained on it in the end has those from before: see `ftkeras.evaluation.refit`.

    Args:
        model: Returns (n, units), or a dict of them by output.
        feed: The run's data.
        run: Where the answers are kept.
        split: What to measure the model on.
        temperatures: By output, those that were fitted before.

    Raises:
        UserError: The model gives neither logits nor scores.
    """
    data = feed.data
    alone, nouns = len(data.outputs) == 1, feed.input.nouns
    answers: dict[tuple[str, str], Predictions] = {}
    before = {**temperatures_before_refit(run), **(temperatures or {})}
    parts = (split,) if was_refitted(run) else ("val", split)
    for part in dict.fromkeys(name for name in parts if name in data.splits):
        said = predict_split(model, feed, part, f"evaluate {part}")
        readings = {name: output.reading(model, name) for name, output in data.outputs.items()}
        for name, kept in answers_of(said, readings, data.splits[part]).items():
            answers[part, name] = kept
            save_predictions(run, part if alone else f"{part}-{name}", kept)
    results = {
        name: _measured(output, data.splits[split], name, answers[split, name],
                        answers.get(("val", name)), alone, before.get(name))
        for name, output in data.outputs.items()
    }  # fmt: skip
    if alone:
        return {"split": split, "nouns": nouns, **next(iter(results.values()))}
    heads = {name: {"kind": data.outputs[name].kind, **part} for name, part in results.items()}
    return {
        "split": split,
        "nouns": nouns,
        "examples": len(data.splits[split]),
        "heads": heads,
    }


def answers_of(said: Any, readings: Mapping[str, Reading], split: Split) -> dict[str, Predictions]:
    """Returns by output what predictions keep of the examples whose answer is known.

    Args:
        said: What a model put out for all examples, (n, units); or a dict of them by output.
        readings: How to read each output.
        split: The examples.
    """
    answers = {}
    for name, reading in readings.items():
        kept = np.asarray(reading.kept(said[name] if isinstance(said, dict) else said))
        right = split.answers_to(name)
        known = right.places
        answers[name] = Predictions(kept[known], right.values[known], np.array(split.ids)[known])
    return answers


def _measured(
    output: Output,
    split: Split,
    name: str,
    answers: Predictions,
    val: Predictions | None,
    alone: bool,
    temperature: float | None = None,
) -> dict[str, Any]:
    if not len(answers.labels) and not alone:
        return {"examples": 0, "intervals": {}}
    note = "fitted on the validation split"
    if temperature is not None:
        note = "the run's"
    elif val is not None and len(val.labels):
        temperature = output.temperature(val.labels, val.logits)
    known = split.answers_to(name).places
    columns = {column: values[known] for column, values in split.columns.items()}
    scale = 1.0 if temperature is None else temperature
    results = output.measure(answers.labels, answers.logits, temperature=scale, columns=columns)
    if alone and "temperature" in results:
        results["temperature_note"] = (
            "there is no validation split to fit a temperature on" if temperature is None else note
        )
    return results
