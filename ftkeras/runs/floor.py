"""The floor: a linear model on frozen features. A run starts from it and has to beat it.

Logistic regression on the pooled features of a pretrained backbone takes a second, and on a few
hundred examples it is hard to beat. So each run fits one first, gives it to the head to start from
(Kumar et al. 2022, "LP-FT"), and chooses in the end, on the validation split, among the floor, the
fine-tuned weights, and those half way between (Wortsman et al. 2022, "WiSE-FT").
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.cache import cache_folder, digest, keep
from ftkeras.console import counted, track
from ftkeras.data.dataset import Split
from ftkeras.data.order import example_weights
from ftkeras.data.pipeline import plain
from ftkeras.evaluation.floor import predictions_name
from ftkeras.evaluation.predict import predict_outputs, predict_split
from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.files import read_arrays, write_arrays
from ftkeras.imports import import_beside
from ftkeras.measures.linear import STRENGTHS, Linear
from ftkeras.model.head import logits_name
from ftkeras.outputs.base import Answers, Output
from ftkeras.phases.blend import Blender, weights_of_model
from ftkeras.run import Run
from ftkeras.runs.assemble import Assembled
from ftkeras.timeline import stage
from ftkeras.training.segments import stores_of
from ftkeras.trunk.answers import Answer, run_tail, tail_function
from ftkeras.trunk.extract import find_store, is_rounded, plain_part
from ftkeras.trunk.plan import view_of
from ftkeras.trunk.store import FrontierStore
from ftkeras.version import __version__

FILE = "floor.npz"
MOST = 5_000  # examples that run through the backbone for the floor alone
_FREE = 500  # examples that are always few enough
_PASSES = 0.5  # the most examples for the floor, as a share of those that training runs
_HELD_OUT = 0.2  # of the examples, to choose the strength by
_SCALES = tuple(2.0**-power for power in range(9))
_BETWEEN = {"half way between": 0.5, "fine-tuned": 1.0, "floor": 0.0}  # shares of the fine-tuned


@dataclass(frozen=True)
class Floor:
    """Linear models on frozen features, by output.

    Args:
        heads: The models.
        strengths: Which of `STRENGTHS` each has.
        examples: How many examples they were fitted on.
        scales: What their weights are multiplied by when the head starts from them.
    """

    heads: Mapping[str, Linear]
    strengths: Mapping[str, float]
    examples: int
    scales: Mapping[str, float]

    def save(self, run: Run) -> None:
        """Writes `floor.npz` into a run."""
        arrays: dict[str, Any] = {"examples": np.array(self.examples)}
        for number, (name, head) in enumerate(self.heads.items()):
            arrays |= {f"kernel {number}": head.kernel, f"bias {number}": head.bias}
            arrays[f"strength {number}"] = np.array(self.strengths[name])
            arrays[f"scale {number}"] = np.array(self.scales[name])
        write_arrays(run.path(FILE), arrays)

    @classmethod
    def load(cls, run: Run, names: Mapping[str, Any]) -> Floor:
        """Returns what `save` wrote, for outputs of these names, in the same order."""
        arrays = read_arrays(run.path(FILE))
        heads = {
            name: Linear(arrays[f"kernel {i}"], arrays[f"bias {i}"]) for i, name in enumerate(names)
        }
        strengths, scales = (
            {name: float(arrays.get(f"{key} {i}", 1.0)) for i, name in enumerate(names)}
            for key in ("strength", "scale")  # older runs have no scale
        )
        return cls(heads, strengths, int(arrays["examples"]), scales)


@stage("fit the floor")
def find_floor(assembled: Assembled, run: Run, split: str) -> Floor | None:
    """Fits the floor before training, or loads that of a run that resumes.

    Its answers on the validation split and on `split` are kept in the run, and it is printed.

    Args:
        assembled: The run's parts; the model has not been trained.
        run: Where all is kept.
        split: What the model will be measured on in the end.

    Returns:
        The floor. None if the backbone is not pretrained, if the task has none, or if it would
        not pay; then a line is printed.
    """
    config, splits, outputs = assembled.config, assembled.data.splits, assembled.data.outputs
    if not assembled.task.has_floor(config) or config.backbone.weights == "none":
        return None
    if tf.io.gfile.exists(run.path(FILE)):
        return Floor.load(run, outputs)
    if why := _why_none(assembled):
        print(f"floor     none: {why}")
        return None
    rows = some_rows(len(splits["train"]), config.seed)
    parts = {name: splits[name] for name in ("val", split) if name in splits}
    parts["train"] = splits["train"].take(rows)
    features = _features(assembled, parts, rows)
    # As in training: if classes are balanced, in whatever way, all count alike.
    balance = "none" if assembled.feed.balance == "none" else "class_weights"
    weights = example_weights(parts["train"], balance)
    heads, strengths, scales, rate = {}, {}, {}, _dropout(assembled.model)
    for name, output in outputs.items():
        answers = parts["train"].answers_to(name)
        fitted = _fit(output, features["train"], answers, weights, config.seed)
        heads[name], strengths[name] = fitted
        scales[name] = _scale(output, heads[name], features["train"], answers, rate, config.seed)
    floor = Floor(heads, strengths, len(rows), scales)
    print(f"floor     {_keep_answers(floor, assembled, run, parts, features)}")
    floor.save(run)  # last: with it all is there
    return floor


def start_from(floor: Floor, model: keras.Model) -> bool:
    """Gives the floor's weights to the last layers; returns False if hidden layers are before."""
    if _has_hidden(model):
        return False
    for name, head in floor.heads.items():
        layer = model.get_layer(logits_name(name) if len(floor.heads) > 1 else "logits")
        scale = floor.scales[name]
        layer.set_weights([scale * head.kernel, scale * head.bias])
    return True


@stage("choose the end")
def choose_end(assembled: Assembled, run: Run, start: list[np.ndarray]) -> float:
    """Leaves the weights in the model that are best on the validation split, and prints which.

    The candidates are the floor, the weights of the best epoch, and their mean. Accuracy decides;
    for a number or labels, the loss. If they are equal, the mean is taken first and the floor
    last: on few validation examples no other rule was better (docs/floor.md).

    Args:
        assembled: The run's parts, among them a validation split; the model has the weights of the
            best epoch.
        run: Takes `floor.json`.
        start: The weights that the run started from, as `weights_of_model` returns them.

    Returns:
        The share of the fine-tuned weights, from 0 to 1.
    """
    model = assembled.model
    blender = Blender(model, [start, weights_of_model(model)], assembled.feed.plain("train"))
    badness, is_share = {}, _is_share(assembled)
    what = "accuracy" if is_share else "loss"
    for name, share in _BETWEEN.items():
        blender.put([1 - share, share])
        said = predict_split(model, assembled.feed, "val", f"choose: {name}")
        if faults := assembled.task.faults(assembled.data, said):
            is_share, (what, badness[name]) = True, faults
        else:
            badness[name] = _badness(assembled, said)
    best = min(badness, key=lambda name: float(badness[name].mean()))  # the first among equals
    share = _BETWEEN[best]
    blender.put([1 - share, share])
    scores = {name: float(rows.mean()) for name, rows in badness.items()}
    shown = {n: f"{1 - s:.4f}" if is_share else f"{s:.4f}" for n, s in scores.items()}
    others = ", ".join(f"{n} {v}" for n, v in shown.items() if n != best)
    equal = sum(score == scores[best] for score in scores.values()) > 1
    why = "; of equals it comes first" if equal else ""
    print(f"kept      {best}: validation {what} {shown[best]} ({others}){why}")
    run.write_json("floor.json", {"kept": best, "metric": what, "validation": {
        name: 1 - score if is_share else score for name, score in scores.items()}})  # fmt: skip
    return share


def _why_none(assembled: Assembled) -> str:
    """Returns why there is no floor where one would be expected, or nothing."""
    if assembled.feed.share.count > 1:
        return "several workers train, and each has a part of the examples."
    count, val = (len(assembled.data.splits.get(name, ())) for name in ("train", "val"))
    # The split that the model is measured on is left out of both counts.
    needed, epochs = min(count, MOST) + val, assembled.unfreeze.epochs
    if needed > max(_FREE, _PASSES * epochs * (count + val)):
        return f"it would run {needed} examples, for {epochs} epochs of {count + val}."
    return ""


def some_rows(count: int, seed: int) -> np.ndarray:
    """Returns the indices of the examples to fit on, in rising order."""
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:MOST])


def _has_hidden(model: keras.Model) -> bool:
    return any(layer.name == "head_dense_1" for layer in model.layers)


def _begins_head(name: str) -> bool:
    return name == "head_dense_1" or name.startswith("logits")


def _features_model(model: keras.Model) -> keras.Model:
    """Returns the model up to the input of the head's first dense layer (batch, channels)."""
    last = next(layer for layer in model.layers if _begins_head(layer.name))
    return keras.Model(model.input, last.input)


def _features(
    assembled: Assembled, parts: Mapping[str, Split], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the features of each part, float32 (n, channels).

    Args:
        assembled: The run's parts.
        parts: The examples by split; of train only some.
        rows: The indices of the latter.
    """
    feed, features = assembled.feed, {}
    stores, answer = _stores(assembled, parts)
    for name, part in parts.items():
        label = f"floor, features of {name}"
        if answer is not None and name in stores:
            places = rows if name == "train" else np.arange(len(part))
            features[name] = run_tail(answer, stores[name], feed, name, places, label)
            continue
        model = _features_model(assembled.model)
        whole = len(part) == len(assembled.data.splits[name])
        batches = feed.plain(name) if whole else plain(part, feed.input, feed.batch_size)
        features[name] = predict_outputs(model, batches, label)[0]
    return features


def _stores(
    assembled: Assembled, measured: Iterable[str]
) -> tuple[Mapping[str, FrontierStore], Answer | None]:
    """Returns the first phase's stores by split, and what makes features of what they hold.

    The trunk runs here for all later uses: the phase trains from these stores, and the measurements
    in the end read them, too (`ftkeras.trunk.answers`). There are none if the phase stores nothing,
    or not the examples as they are. Stores that are rounded to 16 bits are for training.
    """
    trunk, phase = assembled.trunk, assembled.unfreeze.phases[0]
    stored = trunk is not None and trunk.forecasts and trunk.forecasts[0].stored
    if trunk is None or not stored or view_of(phase, assembled.feed):
        return {}, None
    split = trunk.splits[0]
    assert split is not None
    graph = split.tail.graph
    [features, *_] = next(s.inputs for s in graph.steps if _begins_head(s.operation.name))
    to_features = dataclasses.replace(graph, outputs=(features,), structure=features)
    parts = assembled.model, assembled.feed, assembled.unfreeze, trunk, 0
    if find_store(split, plain_part(assembled.feed, "train"), trunk.options) is None:
        import_beside("sklearn.linear_model")  # otherwise the floor is most likely stored, too
    measured = () if is_rounded(split, trunk.options) else measured
    trunk.first_stores = stores_of(*parts, names=tuple(dict.fromkeys(("train", "val", *measured))))
    return trunk.first_stores or {}, tail_function(to_features, split.frontier)


def _fit(
    output: Output,
    features: np.ndarray,
    answers: Answers,
    weights: np.ndarray | None,
    seed: int,
) -> tuple[Linear, float]:
    """Returns what `_best_fit` does; the same numbers are fitted once on a machine."""
    known = answers.places
    features, values = features[known], answers.values[known]
    weights = None if weights is None else weights[known]
    arrays = [np.ascontiguousarray(x) for x in (features, values, weights) if x is not None]
    prints = [hashlib.blake2b(x.data).hexdigest() for x in arrays]
    path = cache_folder("floor") / f"{digest(__version__, output, seed, STRENGTHS, *prints)}.npz"
    lost = (OSError, ValueError, KeyError, zipfile.BadZipFile)
    with contextlib.suppress(*lost), np.load(path, allow_pickle=False) as kept:
        return Linear(kept["kernel"], kept["bias"]), float(kept["strength"])
    head, strength = _best_fit(output, features.astype(np.float64), values, weights, seed)
    keep(path, {"kernel": head.kernel, "bias": head.bias, "strength": strength})
    return head, strength


def _dropout(model: keras.Model) -> float:
    """Returns the rate of dropout before the logits."""
    return next((layer.rate for layer in model.layers if layer.name == "head_dropout"), 0.0)


def _scale(
    output: Output, head: Linear, features: np.ndarray, answers: Answers, rate: float, seed: int
) -> float:
    """Returns what the weights of a linear model are multiplied by for the start; mostly 1.

    The floor knows no dropout. Its weights may be large and cancel each other; if dropout leaves
    out some features, the sum is noise, and the first epochs only shrink the weights. If the loss
    under dropout is worse than that of logits of 0, the scale is the half, quarter, ... with the
    lowest one. The best class of an example stays the best. The answers of a number would
    not stay.

    Args:
        output: What the model answers.
        head: The linear model.
        features: float (n, channels).
        answers: To the examples of the features.
        rate: Of dropout, from 0 to below 1.
        seed: Of its mask.
    """
    if not rate or not output.class_names:
        return 1.0
    features, values = features[answers.places], answers.values[answers.places]
    kept = np.random.default_rng(seed).random(features.shape) >= rate
    logits = head(features * kept / (1 - rate))
    losses = {s: output.costs(values, s * logits).mean() for s in (*_SCALES, 0.0)}
    return 1.0 if losses[1.0] <= losses.pop(0.0) else min(losses, key=lambda s: losses[s])


def _best_fit(
    output: Output,
    features: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray | None,
    seed: int,
) -> tuple[Linear, float]:
    """Returns the model fitted on all, and the strength that was best on a part left out."""

    def fitted(rows: np.ndarray, strength: float) -> Linear:
        own = None if weights is None else weights[rows]
        return output.linear(features[rows], values[rows], strength, own)

    out = _left_out(values, seed)
    rest, strength = np.setdiff1d(np.arange(len(values)), out), STRENGTHS[len(STRENGTHS) // 2]
    if len(out) and len(rest):
        costs = [
            output.costs(values[out], fitted(rest, each)(features[out])).mean()
            for each in track(STRENGTHS, "fit the floor", "strength")
        ]
        strength = STRENGTHS[int(np.argmin(costs))]
    return fitted(np.arange(len(values)), strength), strength


def _left_out(values: np.ndarray, seed: int) -> np.ndarray:
    """Returns the indices of a fifth of the examples, or of each class if there are classes."""
    random, out = np.random.default_rng(seed), []
    groups = [np.arange(len(values))]
    if values.ndim == 1:
        groups = [np.flatnonzero(values == label) for label in np.unique(values)]
    for group in groups:
        out.append(random.permutation(group)[: math.floor(_HELD_OUT * len(group))])
    return np.sort(np.concatenate(out))


def _keep_answers(
    floor: Floor,
    assembled: Assembled,
    run: Run,
    parts: Mapping[str, Split],
    features: Mapping[str, np.ndarray],
) -> str:
    """Keeps the floor's answers on all splits except train; returns what to print."""
    outputs, lines = assembled.data.outputs, []
    alone = len(outputs) == 1
    for name, output in outputs.items():
        line = "" if alone else f"{name}: "
        line += f"linear model on the frozen features of {counted(floor.examples, 'example')}"
        line += f", strength {floor.strengths[name]:g}"
        if floor.scales[name] != 1:
            line += f", times {floor.scales[name]:g} for the start, because of the dropout"
        for part in sorted(parts.keys() - {"train"}):
            answers = parts[part].answers_to(name)
            known = answers.places
            kept, values = floor.heads[name](features[part])[known], answers.values[known]
            kept_as = predictions_name(part, None if alone else name)
            ids = np.array(parts[part].ids)[known]
            save_predictions(run, kept_as, Predictions(kept, values, ids))
            if part == "val" and len(values):
                line += f", validation loss {output.costs(values, kept).mean():.4f}"
                if _is_share(assembled):
                    line += f", accuracy {np.mean(kept.argmax(axis=1) == values):.4f}"
        lines.append(line)
    return "; ".join(lines)


def _is_share(assembled: Assembled) -> bool:
    """Whether accuracy decides: the only output is one of several classes."""
    outputs = assembled.data.outputs
    return len(outputs) == 1 and all(o.watched == "accuracy" for o in outputs.values())


def _badness(assembled: Assembled, said: Any) -> np.ndarray:
    """Returns how wrong each validation example is, float (n,): 1 or 0, or losses."""
    val, total = assembled.data.splits["val"], np.zeros(len(assembled.data.splits["val"]))
    for name, output in assembled.data.outputs.items():
        own = said[name] if isinstance(said, dict) else said
        kept = np.asarray(output.reading(assembled.model, name).kept(own))
        answers = val.answers_to(name)
        known = answers.places
        values, kept = answers.values[known], kept[known]
        wrong = kept.argmax(axis=1) != values if _is_share(assembled) else None
        total[known] += output.costs(values, kept) if wrong is None else wrong
    return total
