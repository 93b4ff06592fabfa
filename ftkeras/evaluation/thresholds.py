"""What a run keeps to turn logits into decisions: temperatures, and thresholds of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.data.feed import Feed
from ftkeras.errors import UserError
from ftkeras.evaluation.predict import predict_outputs
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.base import Output
from ftkeras.outputs.kinds import outputs_of
from ftkeras.run import Run

FILE = "thresholds.json"
"""In a run: `thresholds` by output, one per label in their order; `aim` and `split` say whence."""
AIMS = "f1, precision:SHARE or recall:SHARE, such as precision:0.9"


def outputs_of_run(run: Run) -> dict[str, Output]:
    """Returns the outputs of a finished run, with the thresholds that were chosen."""
    return with_thresholds(outputs_of(run.read_json("data.json")), run)


def with_thresholds(outputs: Mapping[str, Output], run: Run) -> dict[str, Output]:
    """Returns outputs with the thresholds that a run keeps; those of `evaluation.json` count, too.

    Raises:
        UserError: The file says something else, there are more or fewer thresholds than labels, or
            one is not between 0 and 1.
    """
    known: dict[str, Any] = {}
    if tf.io.gfile.exists(run.path(FILE)):
        known = run.read_json(FILE).get("thresholds")
        if not isinstance(known, dict) or not all(isinstance(x, list) for x in known.values()):
            raise UserError(
                f'{run.path(FILE)}: expected {{"thresholds": {{OUTPUT: [one number per label]}}}}.'
            )
    elif len(outputs) == 1 and tf.io.gfile.exists(run.path("evaluation.json")):
        known = dict.fromkeys(outputs, run.read_json("evaluation.json").get("thresholds"))
    return {
        name: dataclasses.replace(output, thresholds=tuple(known[name]))
        if isinstance(output, AnyOf) and known.get(name)
        else output
        for name, output in outputs.items()
    }


def temperatures_of(run: Run, outputs: Mapping[str, Output]) -> dict[str, float]:
    """Returns by output what a run's logits are divided by when its model is used."""
    evaluation = run.read_json("evaluation.json")
    parts = evaluation.get("heads") or dict.fromkeys(outputs, evaluation)
    return {name: float(part.get("temperature", 1.0)) for name, part in parts.items()}


def best_thresholds(labels: np.ndarray, scores: np.ndarray, aim: str) -> list[float]:
    """Returns for each label the score from which on it counts, so that the aim is met.

    Each lies in the middle between two scores that were seen. `f1` has the highest F1;
    `precision:0.9` answers as often as it can with that precision, and `recall:0.9` as seldom as it
    can with that recall. If no threshold reaches the precision, the one with the highest is taken.
    A label that no example has keeps 0.5.

    Args:
        labels: Multi-hot (n, labels).
        scores: Float (n, labels), 0 to 1.
        aim: See above.

    Raises:
        UserError: There is no such aim.

    Example:
        >>> best_thresholds(np.array([[1], [1], [0]]), np.array([[0.9], [0.4], [0.2]]), "f1")
        [0.3]
    """
    name, _, given = aim.partition(":")
    try:
        wanted = float(given) if given else 0.0
    except ValueError:
        wanted = -1.0
    needs_share = name in ("precision", "recall")
    if name not in ("f1", "precision", "recall") or needs_share != (0 < wanted <= 1):
        raise UserError(f"evaluate: --choose-thresholds is {AIMS}, not {aim!r}.")
    return [_best(labels[:, c] > 0.5, scores[:, c], name, wanted) for c in range(scores.shape[1])]


def _best(positive: np.ndarray, scores: np.ndarray, aim: str, wanted: float) -> float:
    if not positive.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    answered = np.arange(1, len(ranked) + 1)
    below = np.append(ranked[1:], 0.0)
    cuts = np.flatnonzero(ranked > below)  # equal scores cannot be told apart
    precision, recall = (hits / answered)[cuts], (hits / hits[-1])[cuts]
    if aim == "f1":
        best = np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    elif aim == "recall":
        best = np.flatnonzero(recall >= wanted)[0]
    else:
        enough = np.flatnonzero(precision >= wanted)
        best = enough[-1] if len(enough) else np.argmax(precision)
    cut = cuts[best]
    return float(ranked[cut] + below[cut]) / 2  # not rounded: it could pass one of the two


def choose_thresholds(run: Run, model: keras.Model, feed: Feed, split: str, aim: str) -> None:
    """Chooses thresholds for each output of labels on a split, and keeps them in the run.

    Args:
        run: The run.
        model: Its model.
        feed: Its data.
        split: The split to choose on: one that no result is told of.
        aim: See `best_thresholds`.

    Raises:
        UserError: There is no output of labels, or no such aim.
    """
    outputs = {n: o for n, o in feed.data.outputs.items() if isinstance(o, AnyOf)}
    if not outputs:
        raise UserError("evaluate: --choose-thresholds is for outputs of labels, of which none is.")
    said, _ = predict_outputs(model, feed.plain(split), f"choose on {split}")
    temperatures = temperatures_of(run, feed.data.outputs)
    chosen = {}
    for name, output in outputs.items():
        own = said[name] if isinstance(said, dict) else said
        scores = output.reading(model, name).scores(tf.constant(own), temperatures.get(name, 1.0))
        answers = feed.data.splits[split].answers_to(name)
        known = answers.places
        chosen[name] = best_thresholds(answers.values[known], np.asarray(scores)[known], aim)
    run.write_json(FILE, {"aim": aim, "split": split, "thresholds": chosen})
