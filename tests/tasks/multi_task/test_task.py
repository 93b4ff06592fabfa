"""Runs with several heads, on a manifest of real image files with cells left empty."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.metrics import accuracy_score, mean_absolute_error

import ftkeras
from ftkeras.config.load import load_config, parse_config
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.evaluation.bars import parse_bars
from ftkeras.evaluation.comparison import compare_runs
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.evaluation.writer import write_predictions
from ftkeras.export import grpc_client
from ftkeras.runs.finished import export
from ftkeras.runs.task import task_of
from ftkeras.tasks.multi_task.task import TASK

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}
OUTPUTS = {
    "colour": "classes",
    "tags": "labels",
    "light": {"kind": "number", "weight": 0.5},
    "warm": {"column": "colour", "map": {"red": "yes", "green": "no", "blue": "no"}},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, tiny_backbone) -> Path:
    """Of every fifth image the colour is unknown, of every fourth the light."""
    folder = tmp_path_factory.mktemp("photos")
    shutil.copy(tiny_backbone, folder / "tiny.keras")
    rows = []
    for i in range(60):
        name, random = list(COLOURS)[i % 3], np.random.default_rng(i)
        light = random.uniform(0.4, 1.0)
        pixels = random.normal(0, 10, (40, 40, 3)) + np.array(COLOURS[name]) * light
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i}.jpg")
        tags = ";".join([*(["bright"] if light > 0.7 else []), *(["red"] if i % 3 == 2 else [])])
        rows.append(
            {
                "path": f"{i}.jpg",
                "split": ("train", "train", "train", "val", "test")[i // 12],
                "colour": "" if i % 5 == 0 else name,
                "tags": tags or ";",
                "light": "" if i % 4 == 0 else f"{100 * light:.3f}",
                "camera": "a" if i % 2 else "b",
            }
        )
    with (folder / "list.csv").open("w") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return folder


def config(manifest: Path, *overrides: str, **sections: Any) -> Config:
    tree = {
        "task": "multi_task",
        "outputs": OUTPUTS,
        "multi_task": {"weighting": "uncertainty"},
        "data": {
            "source": "manifest",
            "path": str(manifest / "list.csv"),
            "input": {"size": 32, "augmentation": "none"},
            "batch_size": 12,
        },
        "backbone": {"name": str(manifest / "tiny.keras")},
        "phases": [
            {"name": "heads", "train": ["head"], "epochs": 12, "learning_rate": 3e-2},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 1, "learning_rate": 1e-4},
        ],
        "trunk": {"mode": "on"},
    }
    return parse_config(tree | sections, overrides)


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    return ftkeras.train(config(manifest), str(tmp_path_factory.mktemp("runs") / "several"))


@pytest.mark.slow
def test_each_head_is_measured_on_what_is_known_of_it(run, manifest):
    recorded = run.read_json("evaluation.json")
    heads = recorded["heads"]
    assert recorded["examples"] == 12
    assert {name: found["examples"] for name, found in heads.items()} == {
        "colour": 10, "tags": 12, "light": 9, "warm": 10,
    }  # fmt: skip
    with (manifest / "list.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    said = load_predictions(run, "test-colour")
    truth = [sorted(COLOURS).index(rows[key]["colour"]) for key in said.ids]
    assert said.labels.tolist() == truth
    assert heads["colour"]["accuracy"] == accuracy_score(truth, said.logits.argmax(axis=1))
    assert heads["colour"]["accuracy"] > 0.8
    low, high = heads["colour"]["intervals"]["accuracy"]
    assert low <= heads["colour"]["accuracy"] <= high
    assert set(heads["colour"]["slices"]) == {"camera"}
    said = load_predictions(run, "test-light")
    light = next(head for head in run.read_json("data.json")["heads"] if head["name"] == "light")
    answers = said.logits[:, 0] * light["scale"] + light["mean"]
    truth = [float(rows[key]["light"]) for key in said.ids]
    assert heads["light"]["mae"] == pytest.approx(mean_absolute_error(truth, answers), rel=1e-4)
    assert heads["light"]["mae"] < np.mean(np.abs(np.array(truth) - np.mean(truth)))


@pytest.mark.slow
def test_training_logs_each_head_and_trains_from_the_stored_trunk(run):
    last = list(run.metrics())[-1]
    for name in ("colour_accuracy", "tags_label_accuracy", "light_mae", "val_warm_loss"):
        assert name in last
    assert last["colour_weight"] != 1 and last["light_weight"] != 0.25  # 0.5 / 2 to begin with
    assert [row["stored"] for row in run.read_json("plan.json")["trunk"]] == [True, True]


@pytest.mark.slow
def test_the_export_answers_for_each_head(run, manifest):
    certificate = run.read_json("certificate.json")["saved_model"]
    assert set(certificate["heads"]) == {"colour", "tags", "light", "warm"}
    differences = certificate["saved_model"]["max_difference"]
    assert set(differences) == {"serving_default", "examples", "images", "features"}
    served = tf.saved_model.load(run.path("export", "1")).signatures["serving_default"]
    files = [(manifest / "59.jpg").read_bytes(), b"no image"]
    said = served(image_bytes=tf.constant(files))
    [row] = ftkeras.predict(run, [str(manifest / "59.jpg")], top_k=3)
    best = {name: answer for name, answer in row.answers.items() if name != "light"}
    for name, answer in best.items():
        names = [n.decode() for n in said[f"{name}_class_names"].numpy()[0]]
        assert names == [n for n, _ in answer]
        np.testing.assert_allclose(
            said[f"{name}_scores"].numpy()[0], [score for _, score in answer], atol=1e-3
        )
    assert float(said["light_value"][0]) == pytest.approx(row.answers["light"], abs=0.1)
    assert said["error"].numpy()[0] == b"" and said["error"].numpy()[1] != b""
    assert float(said["light_value"][1]) == 0 and said["warm_class_indices"].numpy()[1, 0] == -1
    assert set(said) >= {"tags_predicted"}
    told = list(grpc_client.columns({name: values.numpy()[0] for name, values in said.items()}))
    assert told[:2] == ["colour", row.answers["colour"][0][0]]
    assert told[told.index("light") + 1] == f"{float(said['light_value'][0]):.6g}"


@pytest.mark.slow
def test_predictions_have_a_column_for_each_head(run, manifest, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    files = [str(manifest / "58.jpg"), str(tmp_path / "broken.jpg")]
    write_predictions(str(tmp_path / "said.csv"), ftkeras.predict(run, files))
    with (tmp_path / "said.csv").open() as file:
        good, bad = csv.DictReader(file)
    columns = ["file", "colour", "colour_score", "tags", "light", "warm", "warm_score", "error"]
    assert list(good) == columns
    assert good["colour"] in COLOURS and 0 < float(good["light"]) < 200
    assert bad["colour"] == "" and bad["error"]
    write_predictions(str(tmp_path / "said.jsonl"), ftkeras.predict(run, files))
    first = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert first["heads"]["colour"][0]["class"] == good["colour"]
    assert isinstance(first["heads"]["light"], float)


@pytest.mark.slow
def test_evaluate_bars_and_the_report_speak_of_heads(run):
    results = ftkeras.evaluate(run, "val")
    text = task_of(run.config).format_results(results)
    assert "colour (classes)" in text and "mean absolute error" in text
    task_of(run.config).check_bars(
        parse_bars(["colour.accuracy>=0.1", "light.mae.high<=99"]), run.read_json("data.json")
    )
    with pytest.raises(UserError, match=r"no metric 'accuracy' is measured"):
        task_of(run.config).check_bars(parse_bars(["accuracy>=0.1"]), run.read_json("data.json"))
    page = run.read_text("report.html")
    assert (
        'id="outputs"' in page and 'id="confusion-colour"' in page and 'id="confusion"' not in page
    )
    assert 'id="numbers-light"' in page
    with pytest.raises(UserError, match="one output of classes or labels, not 'colour'"):
        ftkeras.robustness(run, 4)
    with pytest.raises(UserError, match="compare: it takes one output"):
        compare_runs(run, run, "test")
    with pytest.raises(UserError, match="onnx: it takes one output"):
        export(run, formats=["onnx"])


class Killed(Exception):
    """What a test raises out of a training."""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(manifest, tmp_path, monkeypatch):
    short = config(
        manifest,
        "multi_task.weighting=gradnorm",
        "phases[0].epochs=2",
        "export.saved_model=false",
        "report=false",
        "training.checkpoint.every_steps=1",
        "trunk.mode=off",
    )
    whole = ftkeras.train(short, str(tmp_path / "whole"))

    class Kill(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            if self.steps == 5:
                raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(type(TASK), "callbacks", lambda *_: [Kill()])
        with pytest.raises(Exception, match="Killed"):
            ftkeras.train(short, str(tmp_path / "parts"))
    parts = ftkeras.train(None, str(tmp_path / "parts"))
    one, two = (ftkeras.load_model(r).get_weights() for r in (whole, parts))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    weights = [list(r.metrics())[-1]["colour_weight"] for r in (whole, parts)]
    assert weights[0] == weights[1] != 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.input.mix.mixup=0.2", "MixUp and CutMix would blend"),
        ("export.formats=[onnx]", "onnx: it takes one output"),
        ("loss.name=cross_entropy", "an output has several"),
        ("training.monitor=val_accuracy", "no metric 'val_accuracy' is logged"),
        ("data.multi_label=true", "leave out label_column, label_columns, "),
        ("outputs.colour={column: colours}", "the data have no column 'colours'. Did you mean"),
    ],
)
def test_what_cannot_work_is_refused_before_training(manifest, override, message):
    given = config(manifest, override)
    with pytest.raises(UserError, match=message):
        TASK.check(given, TASK.data(given))


def test_numbers_alone_cannot_be_balanced(manifest):
    """There is no class whose frequency a weight could be made from."""
    given = config(manifest, "data.balance=class_weights", outputs={"light": "number"})
    with pytest.raises(UserError, match="data.balance: all outputs are numbers"):
        TASK.check(given, TASK.data(given))


def test_gradnorm_wants_heads_to_balance(manifest):
    given = config(manifest, "multi_task.weighting=gradnorm", outputs={"colour": "classes"})
    with pytest.raises(UserError, match="two outputs or more"):
        TASK.check(given, TASK.data(given))


@pytest.mark.parametrize("count", [1, 4])
def test_metrics_have_the_names_that_a_monitor_may_use(manifest, count):
    """Several outputs put their names before them."""
    name = "accuracy" if count == 1 else "colour_accuracy"
    some = dict(list(OUTPUTS.items())[:count])
    given = config(manifest, f"training.monitor={name}", outputs=some)
    data = TASK.data(given)
    TASK.check(given, data)
    images = keras.Input((2,))
    outputs = {n: keras.layers.Dense(o.units)(images) for n, o in data.outputs.items()}
    targets = {n: np.zeros((3, o.units)) for n, o in data.outputs.items()}
    if count == 1:
        [outputs], [targets] = outputs.values(), targets.values()
    model = keras.Model(images, outputs)
    model.compile(loss=TASK.loss(given, data), weighted_metrics=TASK.metrics(given, data))
    assert name in model.evaluate(np.zeros((3, 2)), targets, verbose=0, return_dict=True)


def test_a_config_of_version_0_1_asks_the_same(manifest):
    heads = [
        {"name": name, **({"kind": asked} if isinstance(asked, str) else asked)}
        | ({} if name == "warm" else {"column": name})
        for name, asked in OUTPUTS.items()
    ]
    old = config(manifest, outputs={}, multi_task={"heads": heads, "weighting": "uncertainty"})
    now = config(manifest)
    assert TASK.data(old).outputs == TASK.data(now).outputs
    assert "outputs: {NAME: KIND" in TASK.data(old).notes[-1]
    for one, other in zip(old.asked.values(), now.asked.values(), strict=True):
        assert (one.kind, one.map, one.weight) == (other.kind, other.map, other.weight)
    with pytest.raises(UserError, match="'colour' is given twice"):
        config(manifest, outputs={}, multi_task={"heads": [heads[0], heads[0]]})
    with pytest.raises(UserError, match="outputs: multi_task needs them"):
        config(manifest, outputs={})


def test_the_shipped_config_asks_two_questions_about_the_starter():
    given = load_config("configs/multi_task.yaml")
    data = TASK.data(given)
    assert [output.units for output in data.outputs.values()] == [10, 5]
    assert all(answers.known.all() for answers in data.splits["test"].answers.values())
