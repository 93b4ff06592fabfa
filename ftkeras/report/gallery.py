"""The examples that a report shows, drawn by their kind, with what the model went by in them.

They are made while model and data are loaded, and kept in the run as `pictures.json`. So a report
can be written again without either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.evaluation.predictions import Predictions
from ftkeras.evaluation.suspects import Suspect, confident_mistakes, likely_label_errors
from ftkeras.inputs.base import Input, Shown
from ftkeras.measures.metrics import scores_for
from ftkeras.outputs.classes import Classes
from ftkeras.outputs.ending import ending_of
from ftkeras.report.read import RunFacts

MISTAKES, SUSPECTS = 12, 12  # how many are shown


def shown_mistakes(facts: RunFacts) -> list[Suspect]:
    """Returns the mistakes that a report of the run shows."""
    predictions = facts.predictions.get(facts.split)
    if predictions is None or not isinstance(facts.output, Classes):
        return []
    return confident_mistakes(predictions.labels, _scores(facts, predictions), MISTAKES)


def label_suspects(facts: RunFacts, split: str) -> list[Suspect]:
    """Returns the likely label errors of a split; all of them, the likeliest first."""
    predictions = facts.predictions.get(split)
    if predictions is None or not isinstance(facts.output, Classes):
        return []
    return likely_label_errors(predictions.labels, _scores(facts, predictions))


def _scores(facts: RunFacts, predictions: Predictions) -> np.ndarray:
    """Returns the scores that `predict` gives: after the temperature, (n, classes)."""
    temperature = float((facts.evaluation or {}).get("temperature") or 1.0)
    return scores_for(predictions.labels, predictions.logits / temperature)


class Wanted(NamedTuple):
    """An example that a report shows; see `ftkeras.inputs.base.Shown`."""

    explained: int
    beside: bool


def wanted(facts: RunFacts) -> dict[str, dict[str, Wanted]]:
    """Returns which examples of which splits are to be drawn: {split: {id: what of it}}."""
    examples: dict[str, dict[str, Wanted]] = {}
    for split in ("val", "test"):
        for suspect in label_suspects(facts, split)[:SUSPECTS]:
            key = str(facts.predictions[split].ids[suspect.index])
            examples.setdefault(split, {})[key] = Wanted(_explained(suspect), beside=False)
    for mistake in shown_mistakes(facts):
        key = str(facts.predictions[facts.split].ids[mistake.index])
        examples.setdefault(facts.split, {})[key] = Wanted(_explained(mistake), beside=True)
    return examples


def _explained(suspect: Suspect) -> int:
    """If the model misses a label, what speaks for it is what it should have gone by."""
    return suspect.suggested if suspect.suggested >= 0 else suspect.label


def lacks_gallery(facts: RunFacts, kind: Input) -> bool:
    """Whether a report of the run would show an example that is not drawn yet."""
    return kind.ability("cards") is not None and any(
        set(keys) - set(facts.gallery.get(split, {})) for split, keys in wanted(facts).items()
    )


def make_gallery(
    facts: RunFacts,
    model: keras.Model,
    splits: Mapping[str, Split],
    kind: Input,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns what `pictures.json` is to hold, {split: {id: what the kind draws}}.

    Args:
        facts: The run.
        model: Its model, to logits or scores.
        splits: Its data.
        kind: What its examples are.
    """
    cards, output = kind.ability("cards"), facts.output
    if cards is None or not isinstance(output, Classes):
        return {}

    def logits_of(outputs: Any) -> tf.Tensor:  # not all that can be drawn can be explained
        return ending_of(model, exclusive=output.exclusive).logits(outputs)

    made: dict[str, dict[str, dict[str, Any]]] = {}
    for name, asked in wanted(facts).items():
        if name not in splits:
            continue
        split = splits[name]
        index_of = {key: i for i, key in enumerate(split.ids)}
        keys = [key for key in asked if key in index_of]
        shown = [Shown(split.fetch(tf.constant(index_of[key])), *asked[key]) for key in keys]
        drawn = cards.draw(kind, shown, model, logits_of, output.exclusive)
        made[name] = dict(zip(keys, drawn, strict=True))
    return made
