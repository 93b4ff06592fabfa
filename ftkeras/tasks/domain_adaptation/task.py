"""Labels in one domain, use in another: a source with labels and a target without."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.config.schema import Config, StrategyConfig
from ftkeras.data.dataset import Data, Split
from ftkeras.data.feed import Feed
from ftkeras.data.load import Expected
from ftkeras.data.paired import TARGET, PairedFeed
from ftkeras.data.share import WHOLE, Share
from ftkeras.devices.replicas import real_of, replica_class
from ftkeras.errors import UserError
from ftkeras.evaluation.predict import predict_logits
from ftkeras.export.classifier import pooled_features
from ftkeras.keras_internals import flat_layers
from ftkeras.measures.bootstrap import share_interval
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.phases.recalibrate import recalibrate_batch_norm
from ftkeras.report.html import interval, missing, number, table
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.assemble import Assembled
from ftkeras.runs.monitor import check_monitors
from ftkeras.runs.task import Task, only_one_of
from ftkeras.tasks.domain_adaptation.config import DomainConfig, DomainSection
from ftkeras.tasks.domain_adaptation.domains import (
    GradientReversal,
    RowLoss,
    TargetDoubt,
    coral,
    is_source,
    pseudo_labels,
    tell_apart,
)

PAIRED = ("coral", "dann", "pseudo_labels")
"""The methods that train on both domains at once."""


class DomainModel(keras.Model):
    """A classifier with a second loss about the target's rows, which have labels of zeros.

    Args:
        inputs: Raw 0..255 RGB float32 (n, size, size, 3).
        outputs: Logits (n, classes); dann adds the domain's logit as the last one.
        classes: The number of classes.
        method: One of `PAIRED`.
        weight: Weight of the second loss.
        threshold: The least probability of an answer that becomes a pseudo-label.
        strength: Multiplies dann's reversed gradient and pseudo-labels' loss; see `Ramp`.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        classes: int,
        method: str,
        weight: float,
        threshold: float,
        strength: tf.Variable,
        **kwargs: Any,
    ):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._classes, self._method, self._weight = classes, method, weight
        self.strength = strength
        rows = {
            "coral": coral,
            "dann": tell_apart,
            "pseudo_labels": lambda source, logits: (
                strength * pseudo_labels(source, logits, threshold)
            ),
        }
        self._second = RowLoss(rows[method])
        self._doubt = TargetDoubt(classes)

    def train_step(self, data: Any) -> Any:
        """Trains on pairs of a row of the source and one of the target, if the method is paired."""
        inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if self._normalizes():
            inputs = tf.reshape(inputs, (-1, 2, *inputs.shape[1:]))
        return super().train_step((inputs, labels, weights))

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the outputs for inputs (n, ...), or for pairs (n / 2, 2, ...), domain by domain.

        For pairs, batch normalisation that trains uses the statistics of one domain at a time. It
        keeps those of the target, because the model will be used there.
        """
        if len(inputs.shape) == len(self.inputs[0].shape):
            return super().__call__(inputs, *args, **kwargs)
        with keras.StatelessScope():  # keeps the source from updating the moving statistics
            source = super().__call__(inputs[:, 0], *args, **kwargs)
        target = super().__call__(inputs[:, 1], *args, **kwargs)
        pairs = tf.stack([source, target], axis=1)
        return tf.reshape(pairs, (-1, *source.shape[1:]))

    def _normalizes(self) -> bool:
        return any(layer.trainable for layer in _normalizations(self))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the loss of the source's rows; training adds the second loss."""
        logits, domain = y_pred[:, : self._classes], y_pred[:, self._classes :]
        loss = super().compute_loss(x, y, logits, sample_weight, training)
        if training and self._weight:
            answers = domain if self._method == "dann" else logits
            loss += self._weight * self._second(is_source(y), answers)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the metrics of the source's rows, and the doubt about the target's."""
        logits = y_pred[:, : self._classes]
        self._doubt.update_state(is_source(y), logits, real_of(y))
        return super().compute_metrics(x, y, logits, sample_weight)


def _normalizations(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of batch normalisation."""
    kind = keras.layers.BatchNormalization
    return [layer for layer in flat_layers(model) if isinstance(layer, kind)]


class Ramp(keras.callbacks.Callback):
    """Lets a strength rise from 0 to 1 with the share of the steps that are done.

    The schedule of Ganin et al. 2016, section 5.2.2: 2 / (1 + exp(-gamma * share)) - 1. It
    depends on the step alone, so a run that resumes has the right strength.
    """

    def __init__(
        self, strength: tf.Variable, unfreeze: StagedUnfreezing, steps_per_epoch: int, gamma: float
    ):
        super().__init__()
        self._strength, self._unfreeze, self._gamma = strength, unfreeze, gamma
        self._steps_per_epoch = steps_per_epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        epoch, step = self._unfreeze.position
        share = (epoch + step / self._steps_per_epoch) / self._unfreeze.epochs
        self._strength.assign(2.0 / (1.0 + math.exp(-self._gamma * share)) - 1.0)


class DomainAdaptation(Task):
    """Trains on the source's labels and the target's examples."""

    def data(self, config: Config) -> Data:
        """Finds both domains; the target's splits are `target_train` and so on."""
        source = build.data(config)
        try:
            unlabelled = Expected(labelled=False)
            target = build.data(config, expected=unlabelled, of=_section(config).target)
        except UserError as error:  # it names the section `data`
            raise UserError(re.sub("^data", "domain_adaptation.target", str(error))) from None
        for data in (source, target):
            only_one_of(data, "task domain_adaptation")
        number = {name: i for i, name in enumerate(source.class_names)}
        strangers = [name for name in target.class_names if name not in number]
        numbers = np.array([number.get(name, -1) for name in target.class_names], np.int32)

        def renamed(split: Split) -> Split:
            labels = np.full(len(split), -1, np.int32) if strangers else numbers[split.labels]
            classes, weights = len(source.class_names), None
            name = f"{TARGET}{split.name}"
            return dataclasses.replace(
                split, name=name, labels=labels, classes=classes, weights=weights
            )

        if strangers:
            note = (
                f"target: the source has no class {strangers[0]!r}, so the target counts as "
                "unlabelled and no accuracy is measured on it"
            )
        else:
            note = "target: its labels are the source's; they are measured with, not trained on"
        return dataclasses.replace(
            source,
            splits=source.splits | {f"{TARGET}{k}": renamed(v) for k, v in target.splits.items()},
            bad_files=(*source.bad_files, *target.bad_files),
            notes=(*source.notes, note),
        )

    def check(self, config: Config, data: Data) -> None:
        """Refuses adabn if no statistics of the source are learned, and dann if it does not fit."""
        section = _section(config)
        logged = ["accuracy", *(["target_doubt"] if section.method in PAIRED else [])]
        check_monitors(config, data, logged)
        phases = config.phases
        strategy = phases.strategy if isinstance(phases, StrategyConfig) else ""
        if section.method == "dann" and strategy == "surgical":
            raise UserError(
                "phases.strategy: surgical would measure gradients of dann's domain classifier, "
                "too. List the phases, or take another strategy."
            )
        listed = phases if isinstance(phases, list) else []
        settings = [phase.batch_norm for phase in listed if phase.batch_norm is not None]
        if section.method == "adabn" and settings[-1:] != ["train"]:
            raise UserError(
                "domain_adaptation.method: adabn puts the target's batch statistics in place of "
                "the source's, but the last phase does not train with these. Set its batch_norm: "
                "train."
            )

    def feed(
        self,
        config: Config,
        data: Data,
        model: keras.Model,
        share: Share = WHOLE,
        full: bool = False,
    ) -> Feed:
        """Sets up batches of both domains if the method trains on both."""
        plain = super().feed(config, data, model, share, full)
        if _section(config).method not in PAIRED:
            return plain
        fields = [field.name for field in dataclasses.fields(plain) if field.init]
        return PairedFeed(**{name: getattr(plain, name) for name in fields})

    def model(self, config: Config, data: Data, backbone: Backbone) -> keras.Model:
        """Attaches the head, and for dann a domain classifier."""
        section, plain = _section(config), build.model(config, data, backbone)
        if section.method == "adabn" and not _normalizations(plain):
            raise UserError(
                f"domain_adaptation.method: adabn is about batch normalisation, and "
                f"{backbone.name} has none. Take the method none, {', '.join(PAIRED)}."
            )
        if section.method not in PAIRED:
            return plain
        strength = tf.Variable(0.0, trainable=False, name="strength")
        outputs = plain.outputs[0]
        if section.method == "dann":
            features = pooled_features(plain)
            if features is None:
                raise UserError("dann: the head has no pooled features to tell domains apart by.")
            x = GradientReversal(strength, name="reversal")(features)
            seed = config.seed
            x = keras.layers.Dense(
                section.units,
                activation="relu",
                kernel_initializer=keras.initializers.GlorotUniform(seed + 101),
                name="domain_dense",
            )(x)
            domain = keras.layers.Dense(
                1,
                kernel_initializer=keras.initializers.GlorotUniform(seed + 102),
                dtype="float32",
                name="domain",
            )(x)
            outputs = keras.layers.Concatenate(dtype="float32", name="both")([outputs, domain])
        return replica_class(DomainModel)(
            plain.inputs,
            outputs,
            classes=len(data.class_names),
            method=section.method,
            weight=section.weight,
            threshold=section.threshold,
            strength=strength,
            name=plain.name,
        )

    def monitor(self, config: Config, data: Data) -> str:
        """Returns the doubt about the target, if both domains train: it needs no labels."""
        if _section(config).method not in PAIRED:
            return super().monitor(config, data)
        return ("val_" if "val" in data.splits else "") + "target_doubt"

    def why_no_trunk(self, config: Config) -> str | None:
        """A store holds one domain; paired methods need two."""
        method = _section(config).method
        return f"{method} trains on two streams of examples." if method in PAIRED else None

    def why_complete(self, config: Config) -> str | None:
        """The second loss compares both domains of a batch."""
        method = _section(config).method
        return f"{method} compares the domains of a batch" if method in PAIRED else None

    def callbacks(self, assembled: Assembled) -> Sequence[keras.callbacks.Callback]:
        """Returns the callback that raises the second loss."""
        if not isinstance(assembled.model, DomainModel):
            return ()
        gamma, steps = _section(assembled.config).gamma, assembled.feed.steps_per_epoch
        return [Ramp(assembled.model.strength, assembled.unfreeze, steps, gamma)]

    def finish(self, assembled: Assembled, run: Run) -> keras.Model:
        """For adabn, puts the target's statistics into batch normalisation."""
        if _section(assembled.config).method == "adabn":
            recalibrate_batch_norm(assembled.model, assembled.feed.plain(f"{TARGET}train"))
        return assembled.model

    def final(self, model: keras.Model) -> keras.Model:
        """Returns the classifier without the domain classifier."""
        return keras.Model(model.inputs, model.get_layer("logits").output, name=model.name)

    def measure(self, model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
        """Measures the split as usual, and the target; `task.json` keeps the latter."""
        splits = feed.data.splits
        if splits[split].labels.min() < 0:
            raise UserError(f"--split {split}: its examples have no labels to measure with.")
        measured = super().measure(model, feed, run, split)
        name = next(f"{TARGET}{n}" for n in ("test", "val", "train") if f"{TARGET}{n}" in splits)
        target = _on_target(model, feed, name)
        if not split.startswith(TARGET):
            shown = {key: measured.get(key) for key in ("split", "accuracy")}
            run.write_json("task.json", {"source": shown, "target": target})
        intervals = {**measured["intervals"], "target_accuracy": target["interval"]}
        return {**measured, "target_accuracy": target["accuracy"], "intervals": intervals}

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        """Returns both domains side by side."""
        title, results = "The other domain", facts.task
        if not results.get("target"):
            sentence = "The target was not measured yet;"
            return [Section("domains", title, missing(sentence, evaluate_command(facts)))]
        source, target = results["source"], results["target"]
        rows = [
            [f"source, {source['split']}", number(source["accuracy"], ".1%"), "-", "-"],
            [
                target["split"].replace("_", ", "),
                number(target["accuracy"], ".1%"),
                interval(target["interval"]),
                number(target["doubt"]),
            ],
        ]
        method = facts.config.get("domain_adaptation", {}).get("method")
        lead = (
            f"Method: {method}. The source's labels trained the model; the target's, if there are "
            "any, only measure it. Doubt needs no labels: it is the entropy of an answer less that "
            "of all answers' mean. It ranges from the negative logarithm of the number of classes "
            "(sure, and all classes alike) to 0."
        )
        header = ["Domain", "Accuracy", "95% interval", "Doubt"]
        return [Section("domains", title, table("Accuracy by domain", header, rows), lead)]


def _on_target(model: keras.Model, feed: Feed, name: str) -> dict[str, Any]:
    logits, _ = predict_logits(model, feed.plain(name), f"evaluate {name}")
    split, classes = feed.data.splits[name], logits.shape[1]
    doubt = TargetDoubt(classes)
    doubt.update_state(tf.zeros(len(logits)), tf.constant(logits))
    accuracy = None
    if split.labels.min() >= 0:
        accuracy = float((logits.argmax(axis=1) == split.labels).mean())
    return {
        "split": name,
        "examples": len(split),
        "accuracy": accuracy,
        "interval": None if accuracy is None else share_interval(accuracy, len(split)),
        "doubt": float(doubt.result()),
    }


def _section(config: Config) -> DomainSection:
    assert isinstance(config, DomainConfig)
    return config.domain_adaptation


TASK = DomainAdaptation()
