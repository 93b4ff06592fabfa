"""Logistic regression on counts, without a network, if the kind of input can be counted.

Nothing starts from it. On long texts, or in a language without word vectors, it may be better than
the model; the run then reports that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ftkeras.console import Progress, track
from ftkeras.data.dataset import Split
from ftkeras.data.order import example_weights
from ftkeras.evaluation.floor import counts_name
from ftkeras.evaluation.predictions import Predictions, save_predictions, saved
from ftkeras.measures.linear import Linear, logistic
from ftkeras.outputs.kinds import only_output
from ftkeras.outputs.one_of import OneOf
from ftkeras.run import Run
from ftkeras.runs.assemble import Assembled
from ftkeras.runs.floor import some_rows

_STRENGTHS = (1.0, 10.0, 100.0)
_USUAL = 10.0  # if no validation examples choose


class _Part(NamedTuple):
    """Examples of a split whose answers are known: raw, the classes (n,), and their ids."""

    raws: list[bytes]
    labels: np.ndarray
    ids: np.ndarray


def measure_counts(assembled: Assembled, run: Run, split: str) -> None:
    """Fits the classifier, prints its validation accuracy and keeps its answers to `split`.

    Nothing happens if the kind of input has nothing to count, if the only output is not one of
    several classes, if the task has no floor, or if its answers are kept already.

    Args:
        assembled: The run's parts.
        run: Gets the answers.
        split: What the model will be measured on in the end.
    """
    config, splits = assembled.config, assembled.data.splits
    counts = assembled.feed.input.ability("counts")
    output = only_output(assembled.data.outputs)
    wanted = assembled.task.has_floor(config) and assembled.feed.share.count == 1
    if counts is None or not isinstance(output, OneOf) or not wanted:
        return
    if saved(run, counts_name(split)):
        return
    rows = some_rows(len(splits["train"]), config.seed)
    chosen = {name: splits[name] for name in ("val", split) if name in splits}
    chosen["train"] = splits["train"].take(rows)
    [name] = assembled.data.outputs
    parts = {key: _known(part, name) for key, part in chosen.items()}
    try:
        features = counts.make(parts["train"].raws)
    except ValueError:  # no text has a word
        return
    numbers = {key: features(part.raws) for key, part in parts.items()}
    balance = "none" if assembled.feed.balance == "none" else "class_weights"
    weights = example_weights(chosen["train"], balance)
    if weights is not None:
        weights = weights[chosen["train"].answers_to(name).places]
    model, line = _chosen(parts, numbers, output, weights)
    print(f"counts    {counts.WHAT}{line}")
    labels, ids = parts[split].labels, parts[split].ids
    save_predictions(run, counts_name(split), Predictions(model(numbers[split]), labels, ids))


def _chosen(
    parts: Mapping[str, _Part],
    numbers: Mapping[str, Any],
    output: OneOf,
    weights: np.ndarray | None,
) -> tuple[Linear, str]:
    """Returns the model of the strength that is best on validation examples, and what to print."""

    def fitted(strength: float) -> Linear:
        labels, classes = parts["train"].labels, len(output.class_names)
        return logistic(numbers["train"], labels, classes, strength, weights, scaled=False)

    if "val" not in parts or not len(parts["val"].labels):
        return fitted(_USUAL), f", strength {_USUAL:g}"
    labels = parts["val"].labels
    models = {strength: fitted(strength) for strength in track(_STRENGTHS, "counts, strengths")}
    said = {strength: model(numbers["val"]) for strength, model in models.items()}
    best = min(said, key=lambda strength: output.costs(labels, said[strength]).mean())
    accuracy = np.mean(said[best].argmax(axis=1) == labels)
    return models[best], f", strength {best:g}, validation accuracy {accuracy:.4f}"


def _known(split: Split, output: str) -> _Part:
    answers = split.answers_to(output)
    places = answers.places
    part = split.take(places)
    data = tf.data.Dataset.range(len(part)).map(part.fetch, num_parallel_calls=tf.data.AUTOTUNE)
    progress, raws = Progress(f"counts, read {split.name}", len(part)), []
    try:
        for raw in data.as_numpy_iterator():
            raws.append(raw)
            progress.advance()
    finally:
        progress.close()
    return _Part(raws, answers.values[places], np.array(part.ids))
