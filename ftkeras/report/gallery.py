"""The examples that a report shows, drawn small, with what the model looked at in them.

They are made while model and data are at hand and kept in the run as `pictures.json`, so that a
report can be written anew without either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.evaluation.explanation import grad_cam
from ftkeras.evaluation.suspects import Suspect, confident_mistakes, likely_label_errors
from ftkeras.inputs.base import PLAIN, Input
from ftkeras.measures.metrics import scores_for
from ftkeras.outputs.classes import Classes
from ftkeras.report.read import RunFacts

MISTAKES, SUSPECTS = 12, 12  # how many are shown
DRAWN = "image"
"""The key of `pictures.json` under which an example itself is."""


def shown_mistakes(facts: RunFacts) -> list[Suspect]:
    """Returns the mistakes that a report of the run shows."""
    predictions = facts.predictions.get(facts.split)
    if predictions is None or not isinstance(facts.output, Classes):
        return []
    scores = scores_for(predictions.labels, predictions.logits)
    return confident_mistakes(predictions.labels, scores, MISTAKES)


def label_suspects(facts: RunFacts, split: str) -> list[Suspect]:
    """Returns the likely label errors of a split; all of them, the likeliest first."""
    predictions = facts.predictions.get(split)
    if predictions is None or not isinstance(facts.output, Classes):
        return []
    scores = scores_for(predictions.labels, predictions.logits)
    return likely_label_errors(predictions.labels, scores)


def wanted(facts: RunFacts) -> dict[str, dict[str, int | None]]:
    """Returns which examples of which splits are to be pictured: {split: {id: class to explain}}.

    The class is None where no explanation is shown.
    """
    examples: dict[str, dict[str, int | None]] = {}
    for split in ("val", "test"):
        for suspect in label_suspects(facts, split)[:SUSPECTS]:
            key = str(facts.predictions[split].ids[suspect.index])
            examples.setdefault(split, {})[key] = None
    for mistake in shown_mistakes(facts):
        key = str(facts.predictions[facts.split].ids[mistake.index])
        # Where the model misses a label, what speaks for it is what it should have gone by.
        explained = mistake.suggested if mistake.suggested >= 0 else mistake.label
        examples.setdefault(facts.split, {})[key] = explained
    return examples


def lacks_gallery(facts: RunFacts, kind: Input) -> bool:
    """Whether a report of the run would show an example of which there is no picture."""
    return kind.ability("show") is not None and any(
        set(keys) - set(facts.gallery.get(split, {})) for split, keys in wanted(facts).items()
    )


def make_gallery(
    facts: RunFacts,
    model: keras.Model,
    splits: Mapping[str, Split],
    kind: Input,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns what `pictures.json` is to hold: {split: {id: {DRAWN, "overlay"}}}, data URIs.

    Args:
        facts: The run.
        model: Its model, to logits or scores.
        splits: Its data.
        kind: What its examples are.
    """
    made: dict[str, dict[str, dict[str, Any]]] = {}
    asked = wanted(facts)
    show = kind.ability("show")
    if show is None or not asked or not isinstance(facts.output, Classes):
        return made
    explain = grad_cam(model, exclusive=facts.output.exclusive)
    for name, classes in asked.items():
        if name not in splits:
            continue
        split = splits[name]
        index_of = {key: i for i, key in enumerate(split.ids)}
        keys = [key for key in classes if key in index_of]
        raw = (split.fetch(tf.constant(index_of[key])) for key in keys)
        inputs = [np.asarray(kind.read(one, PLAIN, tf.zeros(2, tf.int32))) for one in raw]
        made[name] = {
            key: {DRAWN: show.data_uri(one)} for key, one in zip(keys, inputs, strict=True)
        }
        explained = [
            (k, one) for k, one in zip(keys, inputs, strict=True) if classes[k] is not None
        ]
        if explain is None or not explained:
            continue
        stacked = np.stack([one for _, one in explained])
        heat = explain(stacked, np.array([classes[key] for key, _ in explained]))
        if heat[0].size == 1:  # a single cell says nothing of where
            continue
        for (key, one), where in zip(explained, heat, strict=True):
            shown = show.data_uri(show.overlay(one, where))
            made[name][key] |= {"overlay": shown, "cells": list(where.shape)}
    return made
