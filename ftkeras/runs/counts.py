"""Logistic regression on counts, without a network, if the kind of input can be counted.

On long texts, or in a language without word vectors, it may be better than the network; mostly the
two err on different examples. So in the end the model may answer by both. Each example's logits are
then a weighted sum, with the two weights that the validation split finds best ("stacking", Wolpert
1992). Training does not use it: beside a classifier that knows the training examples by heart, a
network has nothing to learn.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import Progress, track
from ftkeras.data.dataset import Split, joined
from ftkeras.data.feed import Feed
from ftkeras.data.order import example_weights
from ftkeras.evaluation.floor import counts_name
from ftkeras.evaluation.predict import predict_split
from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.measures.linear import Linear, logistic
from ftkeras.outputs.kinds import only_output
from ftkeras.outputs.one_of import OneOf
from ftkeras.run import Run
from ftkeras.runs.assemble import Assembled
from ftkeras.runs.task import Task
from ftkeras.timeline import stage

FILE = "counts.json"
_STRENGTHS = (1.0, 10.0, 100.0)
_USUAL = 10.0  # if no validation examples choose
_MOST = 20_000  # examples that it is fitted on
_GAIN = 2.0  # in the log-likelihood of the validation split: at 5% no chance (Wilks 1938)


class _Part(NamedTuple):
    """Examples of a split whose answers are known: raw, the classes (n,), and their ids."""

    raws: list[bytes]
    labels: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Counts:
    """A classifier of counts, and how much it counts beside the network.

    Args:
        terms: What is counted: what `make` of the kind's ability "counts" returned.
        linear: The classifier.
        strength: How much its examples count against the penalty.
        network: What the network's logits are multiplied by.
        weight: What the classifier's logits are multiplied by.
    """

    terms: Any
    linear: Linear
    strength: float
    network: float
    weight: float


@stage("fit the classifier of counts")
def find_counts(assembled: Assembled, run: Run, split: str) -> Counts | None:
    """Fits the classifier, prints its validation accuracy and keeps its answers to `split`.

    Args:
        assembled: The run's parts; the model is trained.
        run: Gets the answers, and `counts.json`.
        split: What the model will be measured on in the end.

    Returns:
        The classifier if the model answers better with it; otherwise None. There is none without a
        validation split, in a task without a floor, if the kind of input has nothing to count, or
        if the only output is not one of several classes.
    """
    config, splits = assembled.config, assembled.data.splits
    counts = assembled.feed.input.ability("counts")
    output = only_output(assembled.data.outputs)
    wanted = assembled.task.has_floor(config) and assembled.feed.share.count == 1
    if counts is None or not isinstance(output, OneOf) or not wanted:
        return None
    try:
        fit = _Fit(assembled, splits["train"])
    except ValueError:  # no example has anything to count
        return None
    val = _known(splits["val"], fit.output) if "val" in splits else None
    if val is None or not len(val.labels):
        linear = fit(_USUAL)
        print(f"counts    {counts.WHAT}, strength {_USUAL:g}")
        _keep_answers(assembled, run, split, fit.terms, linear)
        return None
    numbers = counts.matrix(fit.terms, val.raws)
    models = {
        strength: fit(strength) for strength in track(_STRENGTHS, "fit the counts", "strength")
    }
    said = {strength: model(numbers) for strength, model in models.items()}
    best = min(said, key=lambda strength: output.costs(val.labels, said[strength]).mean())
    accuracy = np.mean(said[best].argmax(axis=1) == val.labels)
    print(f"counts    {counts.WHAT}, strength {best:g}, validation accuracy {accuracy:.4f}")
    _keep_answers(assembled, run, split, fit.terms, models[best])
    # A task that measures in its own way may give the model no more than the network takes.
    if config.head.counts == "off" or type(assembled.task).measure is not Task.measure:
        return None
    found = Counts(fit.terms, models[best], best, 1.0, 0.0)
    return _weighed(found, assembled, run, said[best], val)


def refit_counts(found: Counts, assembled: Assembled, run: Run, split: str) -> Counts:
    """Returns the classifier fitted on training and validation data together, weighed as before."""
    splits = assembled.data.splits
    fit = _Fit(assembled, joined(splits["train"], splits["val"]))
    linear = fit(found.strength)
    _keep_answers(assembled, run, split, fit.terms, linear)
    return dataclasses.replace(found, terms=fit.terms, linear=linear)


def with_counts(
    found: Counts | None, assembled: Assembled, model: keras.Model
) -> tuple[keras.Model, Feed]:
    """Returns the model that answers by both, and the batches that it takes."""
    if found is None:
        return model, assembled.feed
    kernel, bias = (found.weight * x for x in (found.linear.kernel, found.linear.bias))
    counts, network = assembled.feed.input.ability("counts"), assembled.feed.answers
    both = counts.joined(model, found.terms, (kernel, bias), found.network)

    def answers(asked: keras.Model, name: str, label: str) -> Any:
        own = network(model, name, label) if network is not None and asked is both else None
        if own is None:
            return None
        said = found.linear(counts.matrix(found.terms, _raws(assembled.data.splits[name])))
        return (found.network * own + found.weight * said).astype(np.float32)

    feed = assembled.task.feed(assembled.config, assembled.data, both)
    return both, dataclasses.replace(feed, answers=answers)


class _Fit:
    """The examples of a split that the classifier is fitted on, as numbers.

    Raises:
        ValueError: There is nothing in them to count.
    """

    def __init__(self, assembled: Assembled, split: Split):
        [self.output] = assembled.data.outputs
        output = assembled.data.outputs[self.output]
        random = np.random.default_rng(assembled.config.seed)
        split = split.take(np.sort(random.permutation(len(split))[:_MOST]))
        part, counts = _known(split, self.output), assembled.feed.input.ability("counts")
        self.terms = counts.make(part.raws, output.units)
        self._numbers, self._labels = counts.matrix(self.terms, part.raws), part.labels
        self._classes = output.units
        # As in training, classes count alike if they are balanced, however that is done.
        balance = "none" if assembled.feed.balance == "none" else "class_weights"
        weights = example_weights(split, balance)
        self._weights = None if weights is None else weights[split.answers_to(self.output).places]

    def __call__(self, strength: float) -> Linear:
        """Returns the classifier of a strength."""
        own = self._numbers, self._labels, self._classes, strength, self._weights
        return logistic(*own, scaled=False)


def _weighed(
    found: Counts, assembled: Assembled, run: Run, said: np.ndarray, val: _Part
) -> Counts | None:
    """Returns it with the weights that suit the validation split best; None if it does not help.

    Args:
        found: The classifier.
        assembled: The run's parts.
        run: Gets `counts.json`.
        said: The classifier's logits of the validation split, (n, classes).
        val: The validation split.
    """
    from scipy.optimize import minimize

    [(name, output)] = assembled.data.outputs.items()
    own = predict_split(assembled.model, assembled.feed, "val", "weigh the counts")
    places = assembled.data.splits["val"].answers_to(name).places
    own = np.asarray(output.reading(assembled.model, name).kept(own))[places]

    def cost(weights: np.ndarray) -> float:
        return float(output.costs(val.labels, weights[0] * own + weights[1] * said).mean())

    def best(bounds: list[tuple[float, float | None]]) -> np.ndarray:
        # As if weights were drawn from a normal distribution: a few examples may be without error.
        kept = minimize(lambda w: cost(w) + w @ w / 2 / len(val.labels), [1.0, 0.0], bounds=bounds)
        return np.asarray(kept.x.round(4))

    alone, both = best([(0, None), (0, 0)]), best([(0, None), (0, None)])
    before, after = cost(alone), cost(both)
    network, weight = map(float, both)
    accuracies = [
        np.mean(logits.argmax(axis=1) == val.labels)
        for logits in (own, network * own + weight * said)
    ]
    helps = len(val.labels) * (before - after) > _GAIN
    what = f"validation loss {after:.4f} instead of {before:.4f}"
    what += f", accuracy {accuracies[1]:.4f} instead of {accuracies[0]:.4f}"
    shares = f"{network:g} of the network's logits and {weight:g} of its own"
    if not weight:
        what = "the network answers the validation split best alone"
    print(f"counts    {'added: ' + shares if helps else 'not added'}: {what}")
    losses = {"network": before, "both": after}
    record = {"added": helps, "network": network, "counts": weight, "val_loss": losses}
    run.write_json(FILE, record)
    return dataclasses.replace(found, network=network, weight=weight) if helps else None


def _keep_answers(assembled: Assembled, run: Run, split: str, terms: Any, linear: Linear) -> None:
    """Keeps the classifier's answers to a split in the run."""
    [name] = assembled.data.outputs
    part = _known(assembled.data.splits[split], name)
    said = linear(assembled.feed.input.ability("counts").matrix(terms, part.raws))
    save_predictions(run, counts_name(split), Predictions(said, part.labels, part.ids))


def _known(split: Split, output: str) -> _Part:
    answers = split.answers_to(output)
    places = answers.places
    part = split.take(places)
    return _Part(_raws(part), answers.values[places], np.array(part.ids))


def _raws(split: Split) -> list[bytes]:
    """Reads all examples of a split."""
    data = tf.data.Dataset.range(len(split)).map(split.fetch, num_parallel_calls=tf.data.AUTOTUNE)
    progress, raws = Progress(f"counts, read {split.name}", len(split), "text"), []
    try:
        for raw in data.as_numpy_iterator():
            raws.append(raw)
            progress.advance()
    finally:
        progress.close()
    return raws
