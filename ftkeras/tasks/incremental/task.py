"""Incremental learning: a finished run gets more classes or images, and keeps the old ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.cache import digest
from ftkeras.config.schema import Config
from ftkeras.console import counted
from ftkeras.data.dataset import Data, joined
from ftkeras.data.feed import Feed
from ftkeras.data.load import Expected
from ftkeras.errors import UserError
from ftkeras.evaluation.predict import predict_logits
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.model.assemble import build_model
from ftkeras.outputs.kinds import only_output, outputs_of, told
from ftkeras.outputs.one_of import OneOf
from ftkeras.phases.audit import fingerprint
from ftkeras.phases.selectors import select, weights_of
from ftkeras.report.html import number, table
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.assemble import Assembled
from ftkeras.runs.finished import load_model
from ftkeras.runs.task import Task, only_one_of
from ftkeras.tasks.incremental.config import IncrementalConfig, IncrementalSection
from ftkeras.tasks.incremental.distill import Distillation, Teacher
from ftkeras.tasks.incremental.elastic import ElasticWeights, diagonal_fisher
from ftkeras.tasks.incremental.forgetting import accuracy_by_step, summarize
from ftkeras.tasks.incremental.grow import (
    EqualLengths,
    alignment,
    copy_body,
    fit_bias,
    grow_logits,
    scale_new,
    to_cosine,
)
from ftkeras.tasks.incremental.remember import features_of, remember
from ftkeras.tasks.incremental.replay import Exemplars, as_kept

MEMORY = "memory.npz"
_SEEN = 64  # images per class whose features start its logit


@dataclasses.dataclass(frozen=True)
class Base:
    """The run to extend.

    Args:
        run: Its folder.
        class_names: Its classes.
        steps: The classes of each step up to it.
        matrix: The accuracy on each step's classes after each step; see `summarize`.
    """

    run: Run
    class_names: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    matrix: tuple[Sequence[float | None], ...]

    @classmethod
    def of(cls, config: Config) -> Base:
        """Reads it.

        Raises:
            UserError: It is not there, not finished, or does not put each image into one class.
        """
        run = Run(_section(config).base)
        if not tf.io.gfile.exists(run.path("config.yaml")):
            raise UserError(f"incremental.base: {run.folder} is not a run (it has no config.yaml).")
        task, facts = run.config.task, run.read_json("data.json")
        outputs = outputs_of(facts)
        if task not in ("classification", "incremental") or not isinstance(
            only_output(outputs), OneOf
        ):
            raise UserError(
                f"incremental.base: {run.folder} is of task {task!r} and answers {told(outputs)}. "
                "Only a classification with one output, one of several classes, can be extended."
            )
        if run.state() != "finished":
            raise UserError(
                f"incremental.base: {run.folder} is not finished. `ftkeras train --out="
                f"{run.folder}` resumes it."
            )
        names = tuple(facts["class_names"])
        if task == "classification":
            return cls(run, names, (names,), ())
        history = run.read_json("task.json")
        return cls(run, names, tuple(map(tuple, history["steps"])), tuple(history["matrix"]))

    @property
    def is_first(self) -> bool:
        """Whether it is not an extension itself."""
        return self.run.config.task == "classification"

    def memory(self, wanted: int, held_out: int) -> Exemplars:
        """Returns the images that it keeps; for a first run, chooses them from its data.

        Args:
            wanted: How many training images a first run's memory holds, over all classes.
            held_out: How many validation images, and how many test images, of each class.

        Raises:
            UserError: It keeps none, and its data are gone.
        """
        path, each = self.run.path(MEMORY), wanted // len(self.class_names)
        stored = Exemplars.load(path) if tf.io.gfile.exists(path) else None
        if stored is not None and (not self.is_first or stored.holds(each, held_out)):
            return stored
        if not self.is_first:
            raise UserError(f"incremental.base: {self.run.folder} has no {MEMORY} any more.")
        try:
            data = build.data(self.run.config)
        except UserError as error:
            if stored is not None:
                return stored  # fewer than requested, but all that exist
            raise UserError(
                f"incremental.base: {self.run.folder} has no {MEMORY}, and its data are gone: "
                f"{error}"
            ) from None
        model = load_model(self.run)
        kind = build.input_of(self.run.config, model)
        memory = remember(model, data, None, per_class=each, held_out=held_out, kind=kind)
        memory.save(path)
        print(
            f"memory    {path}: {len(memory.ids)} {kind.nouns} of {len(self.class_names)} classes"
        )
        return memory

    def rows(self, memory: Exemplars) -> list[Sequence[float | None]]:
        """Returns the matrix up to this run; a first run's row is measured on the kept images."""
        if self.matrix:
            return list(self.matrix)
        kept = {key.split("/", 2)[2] for key in memory.ids[memory.parts == "test"]}
        try:
            predictions = load_predictions(self.run, "test")
        except UserError:
            return [[None]]
        rows = np.array([key in kept for key in predictions.ids], bool)
        answers, zeros = predictions.logits.argmax(axis=1), [0] * len(self.class_names)
        return [accuracy_by_step(predictions.labels[rows], answers[rows], zeros, 1)]


class Incremental(Task):
    """New classes come after the old ones; the old logits begin as the base's."""

    by_nature = ("class missing from train", "label shift")  # old classes have only kept images

    def check(self, config: Config, data: Data) -> None:
        """Refuses a config without old classes, or a correction without validation images."""
        super().check(config, data)
        if _section(config).correction == "bias" and "val" not in data.splits:
            raise UserError(
                "incremental.correction: bias is fitted on the validation split, and there is "
                "none. Set data.split.val, or correction: weight_align."
            )
        _check_backbone(config, Base.of(config).run.config)

    def data(self, config: Config) -> Data:
        """Returns the new images together with those that the base remembers."""
        section, base = _section(config), Base.of(config)
        build.input_of(config).able(
            "levels", "task incremental", "the values from 0 to 255 in which it keeps old examples"
        )
        new = build.data(config, expected=Expected(classes=base.class_names))
        only_one_of(new, "task incremental")
        # After the new images were read: this may write the memory.
        memory = base.memory(section.memory, section.held_out)
        classes = len(new.class_names)
        each = section.memory // len(base.class_names) if section.replay else 0
        old = {
            "train": memory.split("train", classes, each),
            "val": memory.split("val", classes, section.held_out),
            "test": memory.split("test", classes, section.held_out),
        }
        step_of = np.array(_step_of(new.class_names, _steps(base, new.class_names))).astype(str)
        splits = {}
        for name, kept in old.items():
            if kept is not None or name in new.splits:
                both = joined(new.splits.get(name), kept)
                columns = {**both.columns, "step": step_of[both.labels]}
                splits[name] = dataclasses.replace(both, name=name, columns=columns)
        replayed = 0 if old["train"] is None else len(old["train"])
        note = (
            f"{counted(classes - len(base.class_names), 'new class', 'new classes')} after "
            f"the {len(base.class_names)} of {base.run.folder}; {replayed} of its examples are "
            "trained on again."
        )
        return dataclasses.replace(new, splits=splits, notes=(*new.notes, note))

    def model(self, config: Config, data: Data, backbone: Backbone) -> keras.Model:
        """Grows the base's model; for distillation, attaches the base as a teacher."""
        section, base = _section(config), Base.of(config)
        old, cosine = load_model(base.run), section.head == "cosine"
        lengths = [layer.scale for layer in old.layers if layer.name == "head_length"]
        if lengths and not cosine:
            raise UserError("incremental.head: the base has a cosine head; set cosine again.")
        train = data.splits["train"]
        seen = train.take(_first_of_each(train.labels, _SEEN))
        kernel, bias = old.get_layer("logits").get_weights()
        if cosine and not lengths:
            asked = features_of(old, seen, build.input_of(config, old), "old features")
            lengths = [float(np.linalg.norm(asked, axis=1).mean())]
            kernel, bias = to_cosine(kernel, bias)
        classes, length = len(data.class_names), lengths[0] if lengths else None
        model = build_model(backbone, classes, length=length, **build.head_options(config))
        if model.input_shape != old.input_shape:
            size = old.input_shape[1]
            raise UserError(
                f"{build.input_of(config, model).smaller}: {model.input_shape[1]}, but "
                f"{base.run.folder} and its memory have {size}. Set it to {size}."
            )
        copy_body(old, model)
        features = features_of(model, seen, build.input_of(config, model), "start new classes")
        grown = grow_logits(kernel, bias, features, seen.labels, classes, cosine=cosine)
        model.get_layer("logits").set_weights(grown)
        if not section.distillation:
            return model
        key = digest(*(fingerprint(variable).hex() for variable in old.variables))
        [inputs] = model.inputs
        asked = Teacher(old, key, name="teacher")(inputs)
        layer = Distillation(section.distillation, section.temperature, name="distillation")
        return keras.Model(inputs, layer([model.output, asked]), name=model.name)

    def callbacks(self, assembled: Assembled) -> Sequence[keras.callbacks.Callback]:
        """Returns the callbacks that hold important weights and column lengths."""
        config, model = assembled.config, self.final(assembled.model)
        section, base = _section(config), Base.of(config)
        callbacks: list[keras.callbacks.Callback] = []
        if section.ewc:
            memory = base.memory(section.memory, section.held_out)
            each = section.memory // len(base.class_names)
            kept = memory.split("train", len(base.class_names), each)
            if kept is None:
                raise UserError("incremental.ewc needs remembered examples; set memory above 0.")
            weights = weights_of(model, assembled.backbone.blocks)
            trained = [s for phase in assembled.phases for s in phase.train or ()]
            variables = [weight.variable for weight in select(weights, trained or ["head"])]
            known = as_kept(kept, assembled.feed.input)
            fisher = diagonal_fisher(model, known, variables, len(base.class_names))
            with assembled.devices.strategy.scope():
                callbacks.append(ElasticWeights(variables, fisher, section.ewc))
        if section.head == "cosine":
            callbacks.append(EqualLengths(model.get_layer("logits")))
        return callbacks

    def final(self, model: keras.Model) -> keras.Model:
        """Returns the grown model without its teacher."""
        return keras.Model(model.inputs, model.get_layer("logits").output, name=model.name)

    def finish(self, assembled: Assembled, run: Run) -> keras.Model:
        """Corrects the new logits, and chooses the images that this run remembers."""
        config, data, model = assembled.config, assembled.data, self.final(assembled.model)
        section, base = _section(config), Base.of(config)
        correction = _correct(model, section, assembled.feed, len(base.class_names))
        memory = base.memory(section.memory, section.held_out)
        remember(
            model,
            data,
            memory,
            per_class=section.memory // len(data.class_names),
            held_out=section.held_out,
            kind=assembled.feed.input,
            step=len(base.steps),
        ).save(run.path(MEMORY))
        unmeasured: list[float | None] = [None] * len(_steps(base, data.class_names))
        history = _told(base, data.class_names, memory, unmeasured)  # stays without test images
        run.write_json("task.json", {"correction": correction, **history})
        return assembled.model

    def measure(self, model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
        """Measures as usual, and writes the accuracy on each step's classes into `task.json`."""
        measured = super().measure(model, feed, run, split)
        if split != "test":
            return measured
        base, section = Base.of(run.config), _section(run.config)
        steps, predictions = _steps(base, feed.data.class_names), load_predictions(run, split)
        row = accuracy_by_step(
            predictions.labels,
            predictions.logits.argmax(axis=1),
            _step_of(feed.data.class_names, steps),
            len(steps),
        )
        memory = base.memory(section.memory, section.held_out)
        history = _told(base, feed.data.class_names, memory, row)
        run.write_json("task.json", {**run.read_json("task.json"), **history})
        return measured

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        """Returns the tables of the accuracy by step."""
        matrix, steps = facts.task.get("matrix"), facts.task.get("steps")
        if not (matrix and steps) or all(value is None for row in matrix for value in row):
            return ()
        rows = [
            [f"after step {j}", *(number(v, ".1%") for v in row), *[None] * (len(steps) - len(row))]
            for j, row in enumerate(matrix)
        ]
        header = [
            "",
            *(f"{i}: {', '.join(names) or 'no new class'}" for i, names in enumerate(steps)),
        ]
        names = {
            "average_accuracy": "Average accuracy",
            "backward_transfer": "Backward transfer",
            "forgetting": "Forgetting",
            "incremental_accuracy": "Average over the steps",
        }
        summary = [[text, number(facts.task["summary"].get(k), ".1%")] for k, text in names.items()]
        lead = (
            f"Accuracy, among all classes known then, on the test {facts.nouns} of the classes of "
            "each step. Backward transfer is its change on earlier steps since they were learned. "
            "Forgetting is how far it is below its best."
        )
        body = [table("Accuracy by step", header, rows), table("In one number", ["", ""], summary)]
        return [Section("forgetting", "What is left of earlier steps", body, lead)]


def _correct(
    model: keras.Model, section: IncrementalSection, feed: Feed, old: int
) -> dict[str, Any]:
    logits = model.get_layer("logits")
    if section.correction == "none" or old == model.output_shape[-1]:
        return {"name": "none"}
    factor, offset = alignment(logits.get_weights()[0], old), 0.0
    if section.correction == "bias":
        answers, _ = predict_logits(model, feed.plain("val"), "fit the correction")
        factor, offset = fit_bias(answers, feed.data.splits["val"].labels, old)
    scale_new(logits, old, factor, offset)
    return {"name": section.correction, "factor": factor, "offset": offset}


def _section(config: Config) -> IncrementalSection:
    assert isinstance(config, IncrementalConfig)
    return config.incremental


def _check_backbone(config: Config, base: Config) -> None:
    """Refuses changes to the base's network."""
    now, before = config.backbone, base.backbone
    if now.reinitialize or now.shrink_and_perturb is not None:
        field = "reinitialize" if now.reinitialize else "shrink_and_perturb"
        raise UserError(f"backbone.{field}: an extension begins with its base's weights. Drop it.")
    if now.activation != before.activation:
        raise UserError(
            f"backbone.activation: {now.activation}, but incremental.base has {before.activation}; "
            "its answers would change. Leave it as it was."
        )


def _told(
    base: Base, class_names: Sequence[str], memory: Exemplars, row: Sequence[float | None]
) -> dict[str, Any]:
    """Returns what `task.json` holds of the steps; the last one gave the matrix's last row."""
    matrix = [*base.rows(memory), row]
    return {"steps": _steps(base, class_names), "matrix": matrix, "summary": summarize(matrix)}


def _steps(base: Base, class_names: Sequence[str]) -> list[list[str]]:
    return [*map(list, base.steps), list(class_names[len(base.class_names) :])]


def _step_of(class_names: Sequence[str], steps: Sequence[Sequence[str]]) -> list[int]:
    at = {name: number for number, names in enumerate(steps) for name in names}
    return [at[name] for name in class_names]


def _first_of_each(labels: np.ndarray, most: int) -> np.ndarray:
    """Returns the indices of the first images of each class, in order."""
    rows = [np.flatnonzero(labels == label)[:most] for label in np.unique(labels)]
    return np.sort(np.concatenate(rows))


TASK = Incremental()
