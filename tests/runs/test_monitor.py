"""Metrics of evaluation.json tell the best epoch, stop a training, and end a phase."""

from __future__ import annotations

import csv
import dataclasses
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.errors import Interrupted, TrainingError, UserError
from ftkeras.evaluation.bars import measured
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.number import Number
from ftkeras.outputs.one_of import OneOf
from ftkeras.phases.phase import improves, larger_is_better
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.runs.monitor import check_monitors, measurable, measured_metrics
from ftkeras.training.callbacks.measured import MeasuredMetrics

SEVERAL = {"label": "classes", "tags": "labels", "age": "number"}
FAR = 9  # epochs without improvement: more than there are


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """72 images of 32 px in a manifest: class by brightness, two labels, a number; a few gaps.

    No validation image has the label "rare".
    """
    from PIL import Image

    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "tags", "age", "split"])
        for number in range(72):
            light, split = number % 3, ("train", "train", "val")[number // 3 % 3]
            pixels = random.integers(0, 160, (32, 32, 3)) + 40 * light
            pixels[..., 0] //= 1 + 3 * (number % 2)  # every other one is not warm
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
            tags = ["bright"] * (light == 2) + ["warm"] * (number % 2 == 0)
            tags += ["rare"] * (split == "train" and number % 5 == 0)
            age = "" if number % 7 == 3 else f"{10 * light + random.normal():.2f}"
            writer.writerow([f"{number}.png", "abc"[light], ";".join(tags) or ";", age, split])
    return folder


@pytest.fixture
def config(photos, tiny_backbone) -> Callable[..., Any]:
    """Two phases, of two epochs and one; what is named is watched by all that can watch."""

    def make(outputs=None, monitor=None, stop=None, until=None, **sections: Any):
        head: dict[str, Any] = {"name": "head", "train": ["head"], "learning_rate": 3e-2}
        ends = {"metric": until, "patience": FAR, "max_epochs": 2, "restore_best": False}
        head |= {"until": ends} if until else {"epochs": 2}
        top = {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 1, "learning_rate": 1e-3}
        training = {"monitor": monitor, "end": "trained", **sections.pop("training", {})}
        if stop:
            training["early_stopping"] = {"metric": stop, "patience": FAR}
        tree = {
            "data": {
                "source": "manifest",
                "path": str(photos / "rows.csv"),
                "batch_size": 8,
                "input": {"size": 32, "augmentation": "none"},
            },
            "backbone": {"name": tiny_backbone},
            "head": {"start": "random", "dropout": 0.0},
            "phases": [head, top],
            "training": training,
            "trunk": {"mode": "off"},
            "export": {"saved_model": False},
            "report": False,
            **({"outputs": outputs} if outputs else {}),
            **sections,
        }
        return parse_config(tree)

    return make


def check_against_evaluate(run: Run, monitor: str, names: list[str]) -> None:
    """The best epoch has the best value, and its values are those of the kept weights."""
    records, best = list(run.metrics()), run.read_json("plan.json")["best_epoch"]
    values = [record[monitor] for record in records]
    assert not any(improves(monitor, value, values[best]) for value in values)
    evaluated = measured(ftkeras.evaluate(run, "val"))
    for name in names:
        value = evaluated[name.removeprefix("val_")]
        assert records[best][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


ONE = ["val_macro_f1", "val_per_class.b.recall", "val_nll"]
ANY = ["val_auc", "val_mean_average_precision", "val_per_class.warm.f1"]
HEADS = ["val_label.ece", "val_tags.per_class.bright.auc", "val_age.rmse"]


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["off", "on"])
@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (None, ONE),
        ({"tags": "labels"}, ANY),
        ({"age": "number"}, ["val_r2", "val_rmse", "val_mae"]),
        (SEVERAL, HEADS),
    ],
    ids=["classes", "labels", "number", "several"],
)
def test_what_is_watched_is_what_evaluate_reports_of_the_kept_weights(
    config, tmp_path, outputs, names, trunk
):
    average = {"average": {"decay": 0.5}} if trunk == "off" else {}
    made = config(outputs, *names, training=average, trunk={"mode": trunk})
    run = ftkeras.train(made, str(tmp_path / "run"))
    assert [row["stored"] for row in run.read_json("plan.json")["trunk"]] == (
        [True, True] if trunk == "on" else []
    )
    assert len(list(run.metrics())) == 3
    check_against_evaluate(run, names[0], names)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "until"])
def test_a_measured_metric_ends_what_it_watches(config, tmp_path, how):
    """With a rate of nearly nothing it stops improving at once."""
    made = config(None, "val_macro_f1", **{how: "val_per_class.c.recall"})
    tree = made.model_dump(mode="json", exclude_none=True)
    for phase in tree["phases"]:
        phase["learning_rate"] = 1e-9
    if how == "stop":
        tree["training"]["early_stopping"]["patience"] = 1
    else:
        tree["phases"][0]["until"] |= {"patience": 1, "max_epochs": 8}
    run = ftkeras.train(parse_config(tree), str(tmp_path / "run"))
    phases = [record["phase"] for record in run.metrics()]
    assert phases == ["head", "head"] + ["top"] * (how == "until")


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["off", "on"])
def test_a_run_that_is_stopped_or_killed_while_it_measures_resumes(config, tmp_path, trunk):
    made = config(
        None,
        *ONE,
        trunk={"mode": trunk},
        training={"checkpoint": {"every_steps": 1}, "average": {"decay": 0.5}},
    )
    whole = ftkeras.train(made, str(tmp_path / "whole"))
    outputs, calls = MeasuredMetrics._outputs, []

    def broken(self):
        calls.append(None)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)  # it stops after the first batch
        if len(calls) == 4:
            raise RuntimeError("killed")
        return outputs(self)

    folder = str(tmp_path / "parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeasuredMetrics, "_outputs", broken)
        with pytest.raises(Interrupted):
            ftkeras.train(made, folder)
        assert len(list(Run.open(folder).metrics())) == 1
        with pytest.raises(TrainingError, match="killed"):
            ftkeras.train(None, folder)
        assert len(list(Run.open(folder).metrics())) == 2
        parts = ftkeras.train(None, folder)
    assert len(calls) == 5  # three epochs, two of them measured twice
    for one, other in zip(whole.metrics(), parts.metrics(), strict=True):
        for name in ("loss", "val_loss", *ONE):
            assert one[name] == other[name], name
    best = [run.read_json("plan.json")["best_epoch"] for run in (whole, parts)]
    assert best[0] == best[1]
    check_against_evaluate(parts, ONE[0], ONE)


def test_the_examples_to_measure_are_made_once_per_fit():
    """To trace their functions takes as long as a short epoch."""
    made = []

    def batches() -> tf.data.Dataset:
        made.append(None)
        return tf.data.Dataset.from_tensor_slices((np.ones((4, 1), np.float32),)).batch(2)

    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    callback = MeasuredMetrics(
        model, model, batches, names=["rows"], measure=lambda said: {"rows": float(len(said))}
    )
    callback.set_model(model)
    for _ in range(2):
        for epoch in range(3):
            callback.on_epoch_end(epoch, logs := {})
            assert logs == {"rows": 4.0}
        callback.before_fit(model, batches)
    assert len(made) == 2


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["off", "on"])
def test_two_replicas_measure_what_one_does(two_replicas, config, tmp_path, trunk):
    runs = [
        ftkeras.train(
            config(None, *ONE, training={"strategy": strategy}, trunk={"mode": trunk}),
            str(tmp_path / strategy),
        )
        for strategy in ("cpu", "mirrored")
    ]
    for one, two in zip(*(run.metrics() for run in runs), strict=True):
        assert two["val_nll"] == pytest.approx(one["val_nll"], rel=1e-4)
    check_against_evaluate(runs[1], ONE[0], ONE)


def test_nothing_is_measured_that_keras_logs(config):
    """Then training costs what it did."""
    for outputs, names in (
        (None, ["val_accuracy", "val_loss", "accuracy"]),
        ({"tags": "labels"}, ["val_label_accuracy", "val_loss", "auc"]),
        ({"age": "number"}, ["val_mae", "val_loss", "mae"]),
    ):
        assembled = assemble(config(outputs, *names))
        assert measured_metrics(assembled, None) is None


def test_of_undefined_and_infinite_answers_comes_no_number(config):
    """A class that is never predicted has no precision; the training continues."""
    assembled = assemble(config(None, "val_per_class.a.precision", "val_macro_f1"))
    callback = measured_metrics(assembled, None)
    head = assembled.model.get_layer("logits")
    kernel, bias = head.get_weights()
    callback.set_model(assembled.model)
    for values, undefined in (([-99.0, 0, 0], [True, False]), ([np.nan, 0, 0], [True, True])):
        head.set_weights([0 * kernel, np.array(values)])
        callback.on_epoch_end(0, logs := {})
        assert list(map(math.isnan, logs.values())) == undefined


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (
            {"monitor": "val_auroc"},
            ["training.monitor: no metric 'val_auroc' is logged.", "Did you mean 'val_auc'?"],
        ),
        (
            {"stop": "val_per_class.d.recall"},
            ["training.early_stopping.metric: ", "Did you mean 'val_per_class.", ".recall'?"],
        ),
        (
            {"until": "macro_f1"},
            ["phases[0].until.metric: ", "Did you mean 'val_macro_f1'?", "val_per_class.CLASS.ME"],
        ),
        ({"monitor": "val_examples"}, ["no metric 'val_examples'"]),
        ({"monitor": "val_accuracy.low"}, ["no metric 'val_accuracy.low'"]),
        (
            {"outputs": SEVERAL, "monitor": "val_label_macro_f1"},
            ["Did you mean 'val_label.macro_f1'?", "val_OUTPUT.per_class.CLASS.METRIC."],
        ),
        (
            {"outputs": {"tags": "labels"}, "monitor": "val_per_class.rare.recall"},
            ["training.monitor: 'val_per_class.rare.recall' is undefined on these validation"],
        ),
    ],
)
def test_what_cannot_be_watched_is_refused_before_training(config, asked, parts):
    with pytest.raises(UserError) as refused:
        assemble(config(**asked))
    for part in parts:
        assert part in str(refused.value)


def test_without_validation_there_is_nothing_to_measure(config):
    made = config(None, "val_macro_f1")
    data, logged = assemble(config()).data, ["accuracy"]
    with pytest.raises(UserError, match="Logged: loss, accuracy. There is no val split."):
        check_monitors(
            made, dataclasses.replace(data, splits={"train": data.splits["train"]}), logged
        )


def test_the_direction_of_every_metric_is_known(config):
    """Also of outputs and classes whose names are those of metrics."""
    data = assemble(config()).data
    classes = tuple(["auc", "loss", "mae", "map", "nll", "precision", "recall"])
    outputs = {"map": OneOf(classes), "accuracy": AnyOf(classes), "f1": Number()}
    smaller = {"nll", "ece", "mae", "rmse"}
    larger = {"accuracy", "label_accuracy", "top_5_accuracy", "macro_f1", "micro_f1", "auc", "r2"}
    larger |= {"mean_average_precision", "average_precision", "precision", "recall", "f1"}
    for some in (*({name: output} for name, output in outputs.items()), outputs):
        own = set()
        for name in measurable(type(data)(data.source, some, data.splits)):
            own.add(metric := name.removeprefix("val_").rpartition(".")[2])
            assert larger_is_better(name) == (metric in larger), name
        assert own <= smaller | larger
    assert own == smaller | larger
    assert not larger_is_better("val_mape") and not larger_is_better("val_map_loss")
