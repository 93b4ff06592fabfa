"""What a task decides for itself; all other parts of a run are the same for every task."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ftkeras.backbones import Backbone
from ftkeras.backbones.hub import is_hub
from ftkeras.config.schema import Config
from ftkeras.data.dataset import Data
from ftkeras.data.feed import Feed
from ftkeras.data.share import WHOLE, Share
from ftkeras.devices.replicas import replica_class
from ftkeras.errors import UserError
from ftkeras.evaluation.bars import Bar, check_metrics
from ftkeras.evaluation.measure import measure
from ftkeras.evaluation.predict import Asked, FilePrediction, predict_files
from ftkeras.evaluation.thresholds import outputs_of_run, temperatures_of
from ftkeras.export.classifier import Served
from ftkeras.export.formats import Sample
from ftkeras.export.run import export_run
from ftkeras.findings import Finding
from ftkeras.graph import Graph, GraphModel
from ftkeras.inputs.base import Input
from ftkeras.measures.results import format_results, headline
from ftkeras.model.inference import with_kept_outputs
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.base import Output
from ftkeras.outputs.classes import Classes
from ftkeras.outputs.kinds import only_classes, only_output, outputs_of, told
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.monitor import check_monitors, measured_metrics
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.callbacks.measured import MeasuredMetrics
from ftkeras.trunk.extract import GetStores, get_stores

if TYPE_CHECKING:
    from ftkeras.runs.assemble import Assembled


class Task:
    """The parts of a run that a task may replace; the defaults classify.

    A task is a subclass in a module of `ftkeras.tasks`, which may replace any of these methods. It
    has no state: one object serves any number of runs.

    Example:
        ```python
        class Ranking(Task):
            def loss(self, config, data):
                return PairwiseLoss()
        ```
    """

    def check(self, config: Config, data: Data) -> None:
        """Raises UserError, before anything is built, for settings that cannot work together."""
        check_loss(config.loss.name, data.outputs)
        if config.data.balance != "none" and not data.class_names:
            raise UserError(
                "data.balance: all outputs are numbers, so there are no classes. Drop it."
            )
        if build.input_of(config).mixes:
            check_mix(data)
        if config.export.formats:
            only_classes(data.outputs, f"export.formats: {config.export.formats[0]}")
        check_monitors(config, data, self.logged(config, data))

    def data(self, config: Config) -> Data:
        """Finds, checks and splits the data."""
        return build.data(config)

    def input(self, config: Config, model: keras.Model | None = None) -> Input:
        """Returns what an example is; see `build.input_of`."""
        return build.input_of(config, model)

    def backbone(self, config: Config, data: Data) -> Backbone:
        """Loads the backbone."""
        return build.backbone(config, data)

    def make_layers_known(self, config: Config) -> None:
        """Imports the layers of this package that a saved model may have."""
        build.make_layers_known(config)

    def feed(
        self,
        config: Config,
        data: Data,
        model: keras.Model,
        share: Share = WHOLE,
        full: bool = False,
    ) -> Feed:
        """Sets up the batches; see `Feed`."""
        return build.feed(config, data, model, share, full)

    def model(self, config: Config, data: Data, backbone: Backbone) -> keras.Model:
        """Attaches the heads.

        The model may be of a subclass with its own `train_step` or `compute_loss`; make it with
        `replica_class`. Only its inputs and outputs are saved.
        """
        return build.model(config, data, backbone)

    def loss(self, config: Config, data: Data) -> Any:
        """Returns what `compile` takes as the loss; it is a mean over examples."""
        losses = {name: output.loss(config.loss) for name, output in data.outputs.items()}
        return losses if len(losses) > 1 else next(iter(losses.values()))

    def metrics(self, config: Config, data: Data) -> Any:
        """Returns what `compile` takes as weighted metrics."""
        metrics = {name: output.metrics() for name, output in data.outputs.items()}
        if len(metrics) > 1:
            return {name: each[:1] for name, each in metrics.items()}
        return next(iter(metrics.values()))

    def logged(self, config: Config, data: Data) -> list[str]:
        """Returns the names that training logs, besides `loss`."""
        metrics = self.metrics(config, data)
        if not isinstance(metrics, dict):
            return [metric.name for metric in metrics]
        own = [f"{name}_{metric.name}" for name, each in metrics.items() for metric in each]
        return [*(f"{name}_loss" for name in metrics), *own]

    def monitor(self, config: Config, data: Data) -> str:
        """Returns the metric that decides the best epoch if the config names none."""
        only = only_output(data.outputs)
        return ("val_" if "val" in data.splits else "") + (only.watched if only else "loss")

    def why_no_trunk(self, config: Config) -> str | None:
        """Returns why frozen layers cannot run once for all epochs, or None."""
        return None

    def why_complete(self, config: Config) -> str | None:
        """Returns why batches cannot be padded (a loss compares several rows), or None."""
        return None

    def silences(self, config: Config) -> bool:
        """Whether frozen layers run without dropout if the config leaves it open."""
        return is_hub(config.backbone.name)

    def stores(self, feed: Feed) -> GetStores:
        """Returns what stores the frozen trunk of a phase; see `ftkeras.trunk.extract`."""
        return get_stores

    def tail(self, model: keras.Model, graph: Graph) -> keras.Model:
        """Returns the part of `model`, not compiled, that trains while its frozen trunk is stored.

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

    def measured(
        self, assembled: Assembled, average: AveragedWeights | None
    ) -> MeasuredMetrics | None:
        """Returns the callback that measures the validation split as a whole, if one is needed."""
        return measured_metrics(assembled, average)

    def start(self, assembled: Assembled, run: Run) -> bool:
        """Gives the model a start of the task's own, before it trains; returns whether it did."""
        return False

    def faults(self, data: Data, said: Any) -> tuple[str, np.ndarray] | None:
        """Returns how wrong each validation example is, if the outputs do not define that.

        Args:
            data: The data.
            said: The model's outputs for the validation split.

        Returns:
            The name of a score from 0 to 1, and 1 minus the score of each example, float (n,).
        """
        return None

    def trains(self, config: Config) -> bool:
        """Whether the phases run; if not, `finish` makes the model."""
        return True

    def finish(self, assembled: Assembled, run: Run) -> keras.Model:
        """Runs after the phases, with the best weights in the model.

        Returns:
            The model to evaluate and export: the trained one, or another instead.
        """
        return assembled.model

    def final(self, model: keras.Model) -> keras.Model:
        """Returns the model that is saved: it has the same inputs and shares its weights.

        Never compiled, for the optimizer's state belongs to the checkpoints.
        """
        plain = keras.Model(model.input, model.output, name=model.name)
        return with_kept_outputs(plain, model)

    def measure(self, model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
        """Returns what `evaluation.json` holds; at least `split`."""
        return measure(model, feed, run, split)

    def check_bars(self, bars: Sequence[Bar], facts: Mapping[str, Any]) -> None:
        """Refuses a bar on a metric that `measure` does not return; UserError.

        Args:
            bars: The conditions.
            facts: What `data.json` holds.
        """
        check_metrics(bars, outputs_of(facts))

    def headline(self, evaluation: dict[str, Any]) -> str:
        """Returns the result in one line."""
        return headline(evaluation)

    def format_results(self, evaluation: dict[str, Any]) -> str:
        """Returns the result as tables."""
        return format_results(evaluation)

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises UserError if `predict` cannot answer by these labels."""
        if labels:
            raise UserError(
                "--labels: this run answers by the classes that it was trained on. Leave it out, "
                "or take a run of the task alignment."
            )

    def predict(
        self,
        run: Run,
        model: keras.Model,
        files: Sequence[Asked],
        top_k: int,
        labels: Sequence[str] = (),
    ) -> Iterator[FilePrediction]:
        """Yields the prediction for each file, or what is wrong with it.

        Args:
            run: The run.
            model: Its model.
            files: The files or examples.
            top_k: How many classes to give, at most.
            labels: Those that `check_labels` accepted.
        """
        config, outputs = run.config, outputs_of_run(run)
        return predict_files(
            model,
            files,
            outputs,
            kind=build.input_of(config, model),
            temperatures=temperatures_of(run, outputs),
            top_k=top_k,
            batch_size=config.data.batch_size,
        )

    def served(self, run: Run, model: keras.Model) -> Served:
        """Returns what is exported."""
        outputs = outputs_of_run(run)
        kind = build.input_of(run.config, model)
        return Served(model, outputs, temperatures=temperatures_of(run, outputs), kind=kind)

    def export(
        self,
        run: Run,
        model: keras.Model,
        directory: str,
        formats: Sequence[str],
        samples: Callable[[], tuple[Sample, Sample]],
    ) -> dict[str, str]:
        """Writes the model, and returns where each format is; see `export_run`."""
        return export_run(run, self.served(run, model), directory, formats, samples)

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        """Returns the task's own sections of the report."""
        return ()

    def findings(self, data: Data) -> Iterator[Finding]:
        """Yields more findings about the data for `ftkeras doctor`."""
        yield from ()

    def has_floor(self, config: Config) -> bool:
        """Whether a linear model on frozen features can do the task; see `runs.floor`."""
        return False

    def starts_from_floor(self, config: Config) -> bool:
        """Whether the head starts from the floor."""
        wanted = config.head.start == "floor" and not config.head.hidden
        return self.has_floor(config) and config.backbone.weights != "none" and wanted

    by_nature: Sequence[str] = ()
    """The checks of `ftkeras doctor` that such data always fail: they are not reported."""

    page: str = "docs/data.md"
    """The page of the manual on the data of such a task."""

    first_use: str = "predict {} FILE..."
    """What a person does with a finished run, whose folder is `{}`: `train` ends with it."""


def task_of(config: Config) -> Task:
    """Returns the task that a config names: `TASK` of its package in `ftkeras.tasks`.

    It is found by name, so that nothing here depends on a single task. A classification with
    several outputs is the task `multi_task`, which can weigh their losses.
    """
    several = config.task == "classification" and len(config.outputs) > 1
    name = "multi_task" if several else config.task
    task = importlib.import_module(f"ftkeras.tasks.{name}.task").TASK
    assert isinstance(task, Task)
    return task


def only_one_of(data: Data, who: str) -> Classes:
    """Returns the only output, which is one of several classes, with every answer known.

    Args:
        data: The data.
        who: What needs it, for the error.

    Raises:
        UserError: There are several outputs, the only one is of another kind, or there are examples
            whose answer is unknown.
    """
    only = only_classes(data.outputs, who, exclusive=True)
    unknown = sum(a.known is not None for split in data.splits.values()
                  for a in split.answers.values())  # fmt: skip
    if unknown:
        raise UserError(f"{who}: an answer to {told(data.outputs)} is unknown; all are needed.")
    return only


def check_loss(name: str, outputs: Mapping[str, Output]) -> None:
    """Refuses a loss that no output takes, and cross-entropy if any output has labels; UserError.

    Outputs of another kind, which do not take it, keep their own loss.
    """
    if name == "auto":
        return
    if name == "cross_entropy" and any(isinstance(output, AnyOf) for output in outputs.values()):
        raise UserError(
            "loss.name: cross_entropy is for one label per example, but an output has several. "
            "Use binary_cross_entropy, focal or auto."
        )
    if not any(name in output.losses for output in outputs.values()):
        possible = dict.fromkeys(n for output in outputs.values() for n in output.losses)
        raise UserError(
            f"loss.name: {name} does not fit {told(outputs)}. Use auto, {', '.join(possible)}."
        )


def check_mix(data: Data) -> None:
    """Refuses to mix examples whose answers are not all known; UserError."""
    answers = data.splits["train"].answers
    if len(data.outputs) > 1 or any(a.known is not None for a in answers.values()):
        raise UserError(
            "data.input.mix: MixUp and CutMix would blend known answers with unknown ones. "
            "Turn them off."
        )
