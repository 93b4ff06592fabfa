"""Few-shot: a few labelled examples per class, and the method that they choose themselves.

Heads on frozen features and the config's phases are compared by cross-validation on the examples
alone. No other label is used before the test split is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.config.schema import CheckpointConfig, Config
from ftkeras.console import table
from ftkeras.data.dataset import Data, Split
from ftkeras.errors import UserError
from ftkeras.evaluation.predict import predict_logits, predict_outputs
from ftkeras.measures.bootstrap import mean_interval
from ftkeras.measures.calibration import fit_temperature
from ftkeras.measures.linear import Linear
from ftkeras.measures.metrics import log_losses
from ftkeras.report.chart import interval_chart
from ftkeras.report.html import interval, number, tag
from ftkeras.report.html import table as html_table
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.assemble import Assembled, assemble
from ftkeras.runs.task import Task, only_one_of
from ftkeras.tasks.few_shot.config import FewShotConfig, FewShotSection
from ftkeras.tasks.few_shot.features import check_stages, unit_features
from ftkeras.tasks.few_shot.probes import draw, fit_head, stratified_folds
from ftkeras.training.resume.saving import Guards

NAMES = {
    "logistic": "logistic regression",
    "cosine": "cosine head",
    "nearest_mean": "nearest class mean",
    "phases": "the phases",
    "selected": "chosen in each draw",
}
_ANSWERS = "answers_of_"  # the files that a run which resumes reads


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """The outputs of a method on one draw.

    Args:
        test: Logits on the test split (m, classes).
        held_out: Cross-validated logits on the support (n, classes); None with one shot.
        head: The head, if the method is one on frozen features.
    """

    test: np.ndarray
    held_out: np.ndarray | None
    head: Linear | None = None


class FewShot(Task):
    """Trains on the first draw's support set; the run keeps the method that it chose."""

    by_nature = ("tiny classes", "no validation")

    def check(self, config: Config, data: Data) -> None:
        super().check(config, data)
        only_one_of(data, "task few_shot")
        if config.backbone.adapt is not None:
            raise UserError(
                "backbone.adapt: few_shot compares many models on a few examples, and would adapt "
                "only one of them. Leave it out."
            )

    def data(self, config: Config) -> Data:
        """Returns the first draw as the training split, and the test split."""
        data = build.data(config)
        only_one_of(data, "task few_shot")
        return _on_draw(data, _pool(data, config), config, 0)

    def model(self, config: Config, data: Data, backbone: Backbone) -> keras.Model:
        check_stages(backbone, _section(config).stages)
        return super().model(config, data, backbone)

    def monitor(self, config: Config, data: Data) -> str:
        return "loss"  # there is no validation split

    def trains(self, config: Config) -> bool:
        return "phases" in _section(config).methods

    def finish(self, assembled: Assembled, run: Run) -> keras.Model:
        """Measures the methods over the draws; returns the model that the first draw chose."""
        config, section = assembled.config, _section(assembled.config)
        data = build.data(config)
        pool, test = _pool(data, config), data.splits["test"]
        draws = [draw(pool.labels, section.shots, config.seed, n) for n in range(section.draws)]
        used = np.unique(np.concatenate(draws))
        with assembled.devices.strategy.scope():
            # From the same examples as the run's own: they decide the vocabulary.
            backbone = build.backbone(config, assembled.data)
            features = unit_features(backbone, section.stages)
        shown = dataclasses.replace(data, splits={"train": pool.take(used), "test": test})
        feed = self.feed(config, shown, assembled.model)
        inputs = {
            name: predict_outputs(features, feed.plain(name), f"features of {name}")[0]
            for name in shown.splits
        }
        by_draw: list[dict[str, _Candidate]] = []
        for turn, chosen in enumerate(draws):
            rows, labels = np.searchsorted(used, chosen), pool.labels[chosen]
            by_draw.append({})
            for method in section.methods:
                if method != "phases":
                    arrays = inputs["train"][rows], labels, inputs["test"]
                    by_draw[-1][method] = _fit_head(method, *arrays, config)
            if self.trains(config) and turn < section.phase_draws:
                on = _on_draw(data, pool, config, turn)
                trained = assembled.model if turn == 0 else None
                by_draw[-1]["phases"] = _train_phases(config, on, run, turn, trained)
        targets = [pool.labels[chosen] for chosen in draws]
        choices = [_choose(section.methods, *pair) for pair in zip(by_draw, targets, strict=True)]
        results = _summary(section, by_draw, choices, targets[0], test.labels)
        run.write_json("task.json", {**results, "channels": int(inputs["train"].shape[1])})
        for path in tf.io.gfile.glob(run.path(f"{_ANSWERS}*.json")):
            tf.io.gfile.remove(path)
        print(_format(results))
        with assembled.devices.strategy.scope():
            return _model(by_draw[0][choices[0]], targets[0], assembled.model, features)

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        return [_report(facts.task, facts.nouns)] if facts.task.get("methods") else []


TASK = FewShot()


class _OnSupport(FewShot):
    """The task on data that are already drawn."""

    def __init__(self, data: Data):
        self._data = data

    def data(self, config: Config) -> Data:
        return self._data


def _section(config: Config) -> FewShotSection:
    assert isinstance(config, FewShotConfig)
    return config.few_shot


def _pool(data: Data, config: Config) -> Split:
    """Returns the examples to draw from; there must be enough, and a test split."""
    if "test" not in data.splits:
        raise UserError("data.split.test: few_shot measures on a test split, and there is none.")
    pool, shots = data.splits["train"], _section(config).shots
    least = int(np.argmin(pool.counts))
    if pool.counts[least] < shots:
        raise UserError(
            f"few_shot.shots: {shots} examples per class, but {data.class_names[least]!r} has only "
            f"{pool.counts[least]} to train on."
        )
    return pool


def _on_draw(data: Data, pool: Split, config: Config, turn: int) -> Data:
    """Returns the data with one draw as the training split, and no validation split."""
    support = pool.take(draw(pool.labels, _section(config).shots, config.seed, turn))
    return dataclasses.replace(data, splits={"train": support, "test": data.splits["test"]})


def _folds(config: Config, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the folds of the cross-validation; none if each class has one example."""
    section = _section(config)
    parts = min(section.folds, section.shots)
    return list(stratified_folds(labels, parts, config.seed)) if parts > 1 else []


def _fit_head(
    method: str, inputs: np.ndarray, labels: np.ndarray, test: np.ndarray, config: Config
) -> _Candidate:
    """Fits a head on features (n, channels), and one more on each fold."""
    classes = int(labels.max()) + 1
    head, held_out = fit_head(method, inputs, labels, classes, _folds(config, labels))
    return _Candidate(head(test), held_out, head)


def _train_phases(
    config: Config, data: Data, run: Run, turn: int, trained: keras.Model | None
) -> _Candidate:
    """Trains through the phases on each fold, and on the whole support unless `trained` is given.

    Args:
        config: The run's config.
        data: The support as training split, and the test split.
        run: Its folder takes scratch runs, and the answers of those that are finished.
        turn: The number of the draw.
        trained: A model that was trained on the whole support.
    """
    support = data.splits["train"]
    folds = _folds(config, support.labels)
    held_out = np.empty((len(support), len(data.class_names))) if folds else None
    for index, (kept, left_out) in enumerate(folds, start=1):
        assert held_out is not None
        part = {"train": support.take(kept), "test": support.take(left_out)}
        fold = dataclasses.replace(data, splits=part)
        what = f"draw {turn + 1}, fold {index} of {len(folds)}"
        held_out[left_out] = _answers(config, fold, run, what, None)
    return _Candidate(_answers(config, data, run, f"draw {turn + 1}", trained), held_out)


def _answers(
    config: Config, data: Data, run: Run, what: str, model: keras.Model | None
) -> np.ndarray:
    """Returns a model's logits (n, classes) on the test split; trains the model if there is none.

    They are kept, so that a run that resumes does not train for them again.
    """
    name = f"{_ANSWERS}{what.replace(', ', '-').replace(' ', '_')}.json"
    if not tf.io.gfile.exists(run.path(name)):
        if model is None:
            print(f"few-shot  phases on {what}")
            model = _trained(config, data, run)
        feed = build.feed(config, data, model)
        run.write_json(name, predict_logits(model, feed.plain("test"), "answers")[0].tolist())
    return np.array(run.read_json(name))


def _trained(config: Config, data: Data, run: Run) -> keras.Model:
    """Returns a new model, trained through the phases as in a run."""
    fresh = assemble(config, _OnSupport(data))
    if fresh.trunk is not None:
        fresh.trunk.agree(fresh.devices.strategy)
    scratch = Run.create(run.path("scratch"), config, overwrite=True)
    guards = Guards(CheckpointConfig(every_minutes=None), config.training.trouble)
    checkpoints = fresh.fit(scratch, guards)
    checkpoints.load_best(fresh.model)
    tf.io.gfile.rmtree(scratch.folder)
    return fresh.model


def _choose(methods: Sequence[str], candidates: dict[str, _Candidate], labels: np.ndarray) -> str:
    """Returns the method with the least cross-validated log loss; with one shot, the first."""
    losses = {name: _loss(candidates[name], labels) for name in methods if name in candidates}
    return min(losses, key=lambda name: losses[name])  # the first among equals


def _loss(candidate: _Candidate, labels: np.ndarray) -> float:
    if candidate.held_out is None:
        return 0.0
    return float(log_losses(labels, candidate.held_out).mean())


def _model(
    candidate: _Candidate,
    labels: np.ndarray,
    trained: keras.Model,
    features: keras.Model,
) -> keras.Model:
    """Returns the chosen method as a model, its logits divided by a cross-validated temperature."""
    if candidate.head is None:
        model = trained
        kernel, bias = trained.get_layer("logits").get_weights()
    else:
        kernel, bias = candidate.head.kernel, candidate.head.bias
        logits = keras.layers.Dense(kernel.shape[1], dtype="float32", name="logits")
        model = keras.Model(features.input, logits(features.output), name=trained.name)
    temperature = 1.0
    if candidate.held_out is not None:
        temperature = fit_temperature(labels, candidate.held_out)
    model.get_layer("logits").set_weights([kernel / temperature, bias / temperature])
    return model


# ------------------------------------------------------------------------------- results


def _summary(
    section: FewShotSection,
    by_draw: Sequence[dict[str, _Candidate]],
    choices: Sequence[str],
    labels: np.ndarray,
    test_labels: np.ndarray,
) -> dict[str, Any]:
    """Returns what `task.json` holds: each method's accuracy on the test split, by draw."""

    def measured(names: Sequence[str], draws: Sequence[int]) -> dict[str, Any]:
        correct = [by_draw[d][n].test.argmax(axis=1) == test_labels
                   for d, n in zip(draws, names, strict=True)]  # fmt: skip
        values = [float(right.mean()) for right in correct]
        ends = mean_interval(values)  # may exceed the range of accuracies
        return {"accuracies": values, "mean": float(np.mean(values)),
                "interval": ends and [max(ends[0], 0.0), min(ends[1], 1.0)]}  # fmt: skip

    methods = {}
    for name in section.methods:
        draws = [d for d, candidates in enumerate(by_draw) if name in candidates]
        first = by_draw[0][name]
        loss = _loss(first, labels) if first.held_out is not None else None
        methods[name] = {**measured([name] * len(draws), draws), "held_out_log_loss": loss}
    return {
        "shots": section.shots,
        "draws": len(by_draw),
        "choice": choices[0],
        "choices": list(choices),
        "methods": methods,
        "selected": measured(choices, range(len(by_draw))),
    }


def _rows(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [*results["methods"].items(), ("selected", results["selected"])]


def _format(results: dict[str, Any]) -> str:
    rows = []
    for name, row in _rows(results):
        ends = row["interval"]
        between = "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
        loss = row.get("held_out_log_loss")
        shown = "-" if loss is None else f"{loss:.3f}"
        rows.append((NAMES[name], f"{row['mean']:.3f}", between, len(row["accuracies"]), shown))
    header = ("method", "accuracy", "95% interval", "draws", "held-out log loss")
    chosen = f"kept: {NAMES[results['choice']]}, chosen on the first draw's examples alone"
    return f"\n{results['shots']} examples per class\n{table(rows, header)}\n{chosen}"


def _report(results: dict[str, Any], nouns: str) -> Section:
    shots = results["shots"]
    rows = [
        [
            NAMES[name],
            number(row["mean"], ".1%"),
            interval(row["interval"]),
            len(row["accuracies"]),
            number(row.get("held_out_log_loss")),
        ]
        for name, row in _rows(results)
    ]
    header = ["Method", "Accuracy", "95% interval", "Draws", "Held-out log loss"]
    chart = interval_chart(
        [(NAMES[name], row["mean"], row["interval"]) for name, row in _rows(results)],
        title=f"Test accuracy with {shots} examples per class",
        x_label="accuracy",
    )
    lead = (
        f"{shots} examples per class were drawn {results['draws']} times. The interval is of the "
        f"mean over the draws; the test {nouns} stay the same. The run's model is "
        f"{NAMES[results['choice']]}: cross-validation on the first draw's examples chose it, "
        "and measured the log loss."
        if shots > 1
        else f"One example per class was drawn {results['draws']} times. There is nothing to "
        f"validate on: the run's model is the first method, {NAMES[results['choice']]}."
    )
    body = [tag("figure", chart), html_table("Methods over the draws", header, rows)]
    return Section("few-shot", "Few-shot methods", body, lead)
