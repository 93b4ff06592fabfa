"""What a task decides for itself; everything else about a run is the same for all of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from ftkeras.backbones import Backbone
from ftkeras.config.schema import Config, LossConfig
from ftkeras.data.dataset import ImageData
from ftkeras.data.feed import Feed
from ftkeras.data.share import WHOLE, Share
from ftkeras.devices.replicas import replica_class
from ftkeras.errors import UserError, did_you_mean
from ftkeras.evaluation.bars import Bar, check_metrics
from ftkeras.evaluation.measure import measure
from ftkeras.evaluation.predict import Row, predict_files
from ftkeras.evaluation.results import format_results
from ftkeras.export.classifier import Classifier, Servable
from ftkeras.model.graph import Graph, GraphModel
from ftkeras.model.inference import with_kept_outputs
from ftkeras.phases.smoothing import Smoothed
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section
from ftkeras.run import Run
from ftkeras.runs import build

if TYPE_CHECKING:
    from ftkeras.runs.assemble import Assembled


class Task:
    """The parts of a run that a task may replace; as they are, they classify images.

    A task is a subclass in a module of `ftkeras.tasks`, which may replace any of these methods. It
    has no state: one object serves any number of runs.

    Example:
        ```python
        class Ranking(Task):
            def loss(self, config, data):
                return PairwiseLoss()
        ```
    """

    def check(self, config: Config, data: ImageData) -> None:
        """Raises UserError, before anything is built, for what cannot work together."""
        if config.loss.name == "cross_entropy" and data.multi_label:
            raise UserError(
                "loss.name: cross_entropy is for one label an image, but these data have several. "
                "Use binary_cross_entropy, focal or auto."
            )
        check_monitors(config, data, [metric.name for metric in self.metrics(config, data)])

    def images(self, config: Config) -> ImageData:
        """Finds, checks and splits the data."""
        return build.images(config)

    def feed(
        self,
        config: Config,
        data: ImageData,
        model: keras.Model,
        share: Share = WHOLE,
        full: bool = False,
    ) -> Feed:
        """Sets up the batches; see `Feed`."""
        return build.feed(config, data, model, share, full)

    def model(self, config: Config, data: ImageData, backbone: Backbone) -> keras.Model:
        """Attaches the heads.

        The model may be of a subclass with its own `train_step` or `compute_loss`, of which
        `replica_class` returns the one to make, from the same inputs and outputs: only these are
        saved.
        """
        return build.model(config, data, backbone)

    def loss(self, config: Config, data: ImageData) -> Any:
        """Returns what `compile` takes as the loss; it is a mean over examples."""
        return class_loss(config.loss, data.multi_label)

    def metrics(self, config: Config, data: ImageData) -> Any:
        """Returns what `compile` takes as weighted metrics."""
        if data.multi_label:
            return [
                # Of single labels; `evaluation.json` has it by the same name.
                keras.metrics.BinaryAccuracy(threshold=0.0, name="label_accuracy"),
                keras.metrics.AUC(multi_label=True, from_logits=True, name="auc"),
            ]
        return [keras.metrics.CategoricalAccuracy(name="accuracy")]

    def monitor(self, config: Config, data: ImageData) -> str:
        """Returns the metric that tells the best epoch where the config names none."""
        name = "loss" if data.multi_label else "accuracy"
        return ("val_" if "val" in data.splits else "") + name

    def why_no_trunk(self, config: Config) -> str | None:
        """Returns why what is frozen cannot run once, where it cannot."""
        return None

    def why_complete(self, config: Config) -> str | None:
        """Returns why batches cannot be padded, if a loss is about several rows at once."""
        return None

    def tail(self, model: keras.Model, graph: Graph) -> keras.Model:
        """Returns the part of `model` that trains while its frozen trunk is stored, not compiled.

        If `model` is of a subclass with its own `compute_loss`, nothing is stored unless the task
        replaces this: the part has to have the same loss.

        Args:
            model: The whole model, compiled.
            graph: The calls from the frontier to the model's outputs.
        """
        return replica_class(GraphModel)(graph, "tail", model)

    def callbacks(self, assembled: Assembled) -> Sequence[keras.callbacks.Callback]:
        """Returns more callbacks for `fit`; one with `state` and `load_state` is resumed, too.

        Their `model` is what is fitted: in a phase with a stored trunk, what `tail` returned.
        """
        return ()

    def trains(self, config: Config) -> bool:
        """Returns whether the phases run; without them `finish` makes the model."""
        return True

    def finish(self, assembled: Assembled, run: Run) -> keras.Model:
        """Does what is left when the phases are over and the best weights are in the model.

        Returns:
            The model that goes on from here: the trained one, or another in its place.
        """
        return assembled.model

    def final(self, model: keras.Model) -> keras.Model:
        """Returns what is kept of the trained model: it takes images and shares its weights.

        Never compiled, for the optimizer's state belongs to the checkpoints.
        """
        plain = keras.Model(model.input, model.output, name=model.name)
        return with_kept_outputs(plain, model)

    def measure(self, model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
        """Returns what `evaluation.json` holds; at least `split`."""
        return measure(model, feed, run, split)

    def check_bars(self, bars: Sequence[Bar], facts: Mapping[str, Any]) -> None:
        """Refuses a bar on a metric that `measure` will not give; UserError.

        Args:
            bars: The conditions.
            facts: What `data.json` holds.
        """
        check_metrics(bars, facts["class_names"], facts["multi_label"])

    def headline(self, evaluation: dict[str, Any]) -> str:
        """Returns the result in one line."""
        low, high = evaluation["intervals"]["accuracy"]
        return (
            f"{evaluation['split']} accuracy {evaluation['accuracy']:.4f} "
            f"(95% interval {low:.3f} to {high:.3f}), macro-F1 {evaluation['macro_f1']:.4f}"
        )

    def format_results(self, evaluation: dict[str, Any]) -> str:
        """Returns the result as tables."""
        return format_results(evaluation)

    def predict(
        self, run: Run, model: keras.Model, files: Sequence[str], top_k: int
    ) -> Iterator[Row]:
        """Yields what the model says of each file, or what is wrong with it."""
        config, facts = run.config, run.read_json("data.json")
        return predict_files(
            model,
            files,
            kind=build.input_of(config, model),
            class_names=facts["class_names"],
            top_k=min(top_k, len(facts["class_names"])),
            multi_label=facts["multi_label"],
            temperature=temperature_of(run),
            batch_size=config.data.batch_size,
        )

    def served(self, run: Run, model: keras.Model) -> Servable:
        """Returns what is exported."""
        facts, evaluation = run.read_json("data.json"), run.read_json("evaluation.json")
        return Classifier(
            model,
            facts["class_names"],
            resize=run.config.data.resize,
            multi_label=facts["multi_label"],
            temperature=float(evaluation.get("temperature", 1.0)),
            thresholds=evaluation.get("thresholds"),
        )

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        """Returns the task's own sections of the report."""
        return ()

    leaves_out: Sequence[str] = ()
    """The anchors of sections that every report has and that say nothing of this task."""

    by_nature: Sequence[str] = ()
    """The checks of `ftkeras doctor` that such data fail by nature: it keeps them to itself."""


def task_of(config: Config) -> Task:
    """Returns the task that a config names: `TASK` of its package in `ftkeras.tasks`.

    Found by name, so that nothing here depends on a single task.
    """
    task = importlib.import_module(f"ftkeras.tasks.{config.task}.task").TASK
    assert isinstance(task, Task)
    return task


def temperature_of(run: Run) -> float:
    """Returns what a run's logits are divided by where its model is used."""
    return float(run.read_json("evaluation.json").get("temperature", 1.0))


def check_monitors(config: Config, data: ImageData, metrics: Sequence[str]) -> None:
    """Refuses a metric that nobody logs.

    Raises:
        UserError: It names the field and what is logged.
    """
    names = ["loss", *metrics]
    if "val" in data.splits:
        names += [f"val_{name}" for name in names]
    asked = {"training.monitor": config.training.monitor}
    if config.training.early_stopping is not None:
        asked["training.early_stopping.metric"] = config.training.early_stopping.metric
    for number, phase in enumerate(config.phases if isinstance(config.phases, list) else []):
        if phase.until is not None:
            asked[f"phases[{number}].until.metric"] = phase.until.metric
    for field, name in asked.items():
        if name is not None and name not in names:
            raise UserError(
                f"{field}: no metric {name!r} is logged.{did_you_mean(name, names)} "
                f"Logged: {', '.join(names)}."
            )


def class_loss(loss: LossConfig, multi_label: bool) -> Smoothed:
    """Returns the loss of logits that the config names; it is a mean over examples."""
    return Smoothed(_class_loss(loss, multi_label), loss.label_smoothing)


def _class_loss(loss: LossConfig, multi_label: bool) -> keras.losses.Loss:
    if loss.name == "focal" and multi_label:
        return keras.losses.BinaryFocalCrossentropy(gamma=loss.gamma, from_logits=True)
    if loss.name == "focal":
        # alpha=1: weighing the classes is the business of data.balance.
        return keras.losses.CategoricalFocalCrossentropy(
            alpha=1.0, gamma=loss.gamma, from_logits=True
        )
    if loss.name == "binary_cross_entropy" or (loss.name == "auto" and multi_label):
        return keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.losses.CategoricalCrossentropy(from_logits=True)
