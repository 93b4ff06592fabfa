"""Several heads on one network: classes, labels and numbers, each known of some images."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.config.data import ManifestData
from ftkeras.config.schema import Config
from ftkeras.data.dataset import Head, ImageData, Split
from ftkeras.data.feed import Feed
from ftkeras.devices.replicas import replica_class
from ftkeras.errors import UserError
from ftkeras.evaluation.bars import Bar, measured, refuse_unknown
from ftkeras.evaluation.predict import Row
from ftkeras.export.classifier import Servable
from ftkeras.model.assemble import build_heads
from ftkeras.model.graph import Graph
from ftkeras.model.head import Hidden, frequency_bias
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.task import Task, check_monitors, class_loss
from ftkeras.tasks.multi_task.config import MultiTaskConfig, MultiTaskSection
from ftkeras.tasks.multi_task.data import Question, standardised, with_targets
from ftkeras.tasks.multi_task.evaluation import (
    evaluate_head,
    format_heads,
    heads_of,
    main_metric,
    measure_heads,
    predict_heads,
)
from ftkeras.tasks.multi_task.export import MultiHead
from ftkeras.tasks.multi_task.report import head_sections
from ftkeras.tasks.multi_task.weighting import (
    GradNormWeighed,
    UncertaintyWeighed,
    WeighedHeads,
    WeighedTail,
)


class MultiTask(Task):
    """Answers several questions about each image with one network."""

    leaves_out = ("classes", "confusion", "calibration", "mistakes", "labels", "robustness")

    def images(self, config: Config) -> ImageData:
        """Finds the data with a target for each head; labels are all that is known of an image."""
        changes: dict[str, Any] = {}
        if isinstance(config.data, ManifestData):
            if config.data.label_column != "label" or config.data.multi_label:
                raise UserError(
                    "data: multi_task takes its labels from the columns that multi_task.heads "
                    "name; leave out label_column and multi_label."
                )
            changes = {"label_column": None}
        heads = _section(config).heads
        questions = [Question(h.name, h.column, h.kind, h.map) for h in heads]
        prepare = functools.partial(with_targets, questions=questions)
        return standardised(build.images(config, prepare=prepare, **changes))

    def check(self, config: Config, data: ImageData) -> None:
        section = _section(config)
        if section.weighting == "gradnorm" and len(section.heads) < 2:
            raise UserError("multi_task.weighting: gradnorm balances two heads or more.")
        if config.data.mix.mixup or config.data.mix.cutmix:
            raise UserError(
                "data.mix: MixUp and CutMix would blend answers that are known with some that are "
                "not; multi_task goes without."
            )
        if config.loss.name == "cross_entropy" and any(h.kind == "labels" for h in data.heads):
            raise UserError(
                "loss.name: cross_entropy is for one label an image, but a head has several. "
                "Use auto."
            )
        if config.data.balance != "none" and not data.class_names:
            raise UserError("data.balance: all heads are numbers, which are of no class. Drop it.")
        if config.export.formats:
            raise UserError(
                f"export.formats: {config.export.formats[0]} takes a model with one head; a "
                "SavedModel takes several (export.saved_model)."
            )
        check_monitors(config, data, _logged(data))

    def model(self, config: Config, data: ImageData, backbone: Backbone) -> keras.Model:
        section, head = _section(config), config.head
        make = functools.partial(replica_class(WeighedHeads), weights=_weights(section))
        if section.weighting == "uncertainty":
            squared = tuple(h.name for h in data.heads if h.kind == "number")
            make = functools.partial(
                replica_class(UncertaintyWeighed), weights=_weights(section), squared=squared
            )
        elif section.weighting == "gradnorm":
            make = functools.partial(
                replica_class(GradNormWeighed),
                weights=_weights(section),
                alpha=section.alpha,
                rate=section.weight_rate,
            )
        train = data.splits["train"]
        return build_heads(
            backbone,
            {h.name: h.units for h in data.heads},
            biases=_biases(train, data.heads) if head.bias_from_frequencies else {},
            initializer=head.initializer,
            seed=config.seed,
            make=make,
            pooling=head.pooling,
            hidden=[Hidden(**layer.model_dump()) for layer in head.hidden],
            dropout=head.dropout,
        )

    def tail(self, model: WeighedHeads, graph: Graph) -> WeighedTail:
        return replica_class(WeighedTail)(graph, model)

    def loss(self, config: Config, data: ImageData) -> dict[str, keras.losses.Loss]:
        return {
            head.name: keras.losses.MeanSquaredError()
            if head.kind == "number"
            else class_loss(config.loss, head.kind == "labels")
            for head in data.heads
        }

    def metrics(self, config: Config, data: ImageData) -> dict[str, list[keras.metrics.Metric]]:
        return {head.name: [_metric(head, len(data.heads))] for head in data.heads}

    def monitor(self, config: Config, data: ImageData) -> str:
        return "val_loss" if "val" in data.splits else "loss"

    def measure(self, model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
        return measure_heads(model, feed, run, split)

    def check_bars(self, bars: Sequence[Bar], facts: Mapping[str, Any]) -> None:
        if bars:  # answers that are made up tell the names that real ones have
            made_up = {head.name: _made_up(head) for head in heads_of(facts)}
            refuse_unknown(bars, measured({"examples": 1, "heads": made_up}))

    def headline(self, evaluation: dict[str, Any]) -> str:
        metrics = {name: main_metric(part) for name, part in evaluation["heads"].items()}
        shown = [f"{name} {f[0]} {f[1]:.4f}" for name, f in metrics.items() if f is not None]
        return f"{evaluation['split']} {', '.join(shown)}"

    def format_results(self, evaluation: dict[str, Any]) -> str:
        return format_heads(evaluation)

    def predict(
        self, run: Run, model: keras.Model, files: Sequence[str], top_k: int
    ) -> Iterator[Row]:
        facts = run.read_json("data.json")
        return predict_heads(
            model,
            files,
            heads_of(facts),
            kind=build.input_of(run.config, model),
            temperatures=_temperatures(run),
            top_k=top_k,
            batch_size=run.config.data.batch_size,
        )

    def served(self, run: Run, model: keras.Model) -> Servable:
        heads = heads_of(run.read_json("data.json"))
        return MultiHead(model, heads, run.config.data.resize, _temperatures(run))

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        return head_sections(facts)


TASK = MultiTask()

_METRICS = {"classes": "accuracy", "labels": "label_accuracy", "number": "mae"}


def _section(config: Config) -> MultiTaskSection:
    assert isinstance(config, MultiTaskConfig)
    return config.multi_task


def _weights(section: MultiTaskSection) -> dict[str, float]:
    return {head.name: head.weight for head in section.heads}


def _temperatures(run: Run) -> dict[str, float]:
    heads = run.read_json("evaluation.json")["heads"]
    return {name: float(result.get("temperature", 1.0)) for name, result in heads.items()}


def _logged(data: ImageData) -> list[str]:
    metrics = [f"{head.name}_{_METRICS[head.kind]}" for head in data.heads]
    losses = [f"{head.name}_loss" for head in data.heads]
    return [*losses, *metrics]


def _metric(head: Head, heads: int) -> keras.metrics.Metric:
    # Keras puts an output's name before its metrics', but not where it is the only one.
    name = _METRICS[head.kind] if heads > 1 else f"{head.name}_{_METRICS[head.kind]}"
    if head.kind == "classes":
        return keras.metrics.CategoricalAccuracy(name=name)
    if head.kind == "labels":
        return keras.metrics.BinaryAccuracy(threshold=0.0, name=name)
    return keras.metrics.MeanMetricWrapper(_absolute_error, name=name, scale=head.scale)


def _absolute_error(y: tf.Tensor, y_pred: tf.Tensor, scale: float) -> tf.Tensor:
    return scale * tf.abs(y - y_pred)[:, 0]  # (b,), in the units of the data


def _biases(train: Split, heads: Sequence[Head]) -> dict[str, np.ndarray]:
    biases = {}
    for head in heads:
        target = train.targets[head.name]
        if head.kind != "number":
            several = head.kind == "labels"
            known = target.values[target.known]
            biases[head.name] = frequency_bias(known, len(head.class_names), several)
    return biases


def _made_up(head: Head) -> dict[str, Any]:
    classes = np.eye(len(head.class_names))
    if head.kind == "number":
        return evaluate_head(head, np.zeros((2, 1)), np.zeros((2, 1)), resamples=1)
    labels = classes if head.kind == "labels" else np.arange(len(classes))
    return evaluate_head(head, labels, classes, resamples=1)
