"""Numbers: measured by hand, and a run that learns one, from training to the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

import ftkeras
from ftkeras.cli.main import main
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config, LossConfig
from ftkeras.errors import TrainingError, UserError
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.evaluation.writer import write_predictions
from ftkeras.outputs.number import Number
from ftkeras.run import Run
from ftkeras.runs.finished import export
from ftkeras.runs.task import task_of


def test_errors_are_in_the_units_of_the_data_beside_those_of_the_mean():
    truth, answers = np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 3.0, 4.0, 3.0])
    output = Number(mean=2.0, scale=2.0)
    found = output.measure((truth[:, None] - 2) / 2, (answers[:, None] - 2) / 2)
    assert found["mae"] == mean_absolute_error(truth, answers) == 0.75
    assert found["rmse"] == pytest.approx(root_mean_squared_error(truth, answers))
    assert found["r2"] == pytest.approx(r2_score(truth, answers))
    assert found["intervals"]["mae"][0] <= 0.75 <= found["intervals"]["mae"][1]
    assert found["baseline_mae"] == mean_absolute_error(truth, np.full(4, 2.0)) == 1.5
    assert found["baseline_rmse"] == pytest.approx(np.sqrt((1 + 0 + 4 + 9) / 4))
    alike = Number().measure(np.ones((3, 1)), np.ones((3, 1)))
    assert alike["r2"] is None and alike["mae"] == 0
    with pytest.raises(TrainingError, match="not finite"):
        output.measure(np.ones((1, 1)), np.array([[np.nan]]))
    with pytest.raises(UserError, match="no example's answer is known"):
        output.measure(np.ones((0, 1)), np.ones((0, 1)))


@pytest.mark.parametrize(
    ("name", "value"), [("auto", 5.0), ("mse", 5.0), ("mae", 2.0), ("huber", 1.5), ("focal", 5.0)]
)
def test_the_loss_is_of_standardised_numbers(name, value):
    """The errors are 1 and 3; a loss of classes leaves numbers theirs."""
    loss = Number(mean=100.0, scale=50.0).loss(LossConfig(name=name))
    assert float(loss(np.zeros((2, 1)), np.array([[1.0], [3.0]]))) == pytest.approx(value)


# --------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Grey images whose brightness is their age; of every sixth it is unknown."""
    folder = tmp_path_factory.mktemp("faces")
    image = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 128, -1.0)(image)
    x = keras.layers.Conv2D(4, 3, 2, name="block_1")(x)
    keras.Model(image, x, name="small").save(folder / "small.keras")
    rows = []
    for i in range(60):
        grey = np.random.default_rng(i).uniform(20, 235)
        pixels = np.clip(np.random.default_rng(i).normal(grey, 5, (16, 16, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        split = ("train", "train", "train", "val", "test")[i // 12]
        years = "" if i % 6 == 0 else f"{grey / 2.55:.2f}"
        rows.append({"path": f"{i}.png", "split": split, "years": years, "label": "ab"[i % 2]})
    with (folder / "list.csv").open("w") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return folder


def config(folder: Path, *overrides: str, **sections: Any) -> Config:
    tree = {
        "outputs": {"age": {"kind": "number", "column": "years"}},
        "data": {"source": "manifest", "path": str(folder / "list.csv"), "batch_size": 12,
                 "input": {"size": 16, "augmentation": "none"}},
        "backbone": {"name": str(folder / "small.keras")},
        "head": {"dropout": 0.0},
        "phases": [{"name": "head", "train": ["head"], "epochs": 12, "learning_rate": 0.1}],
        "training": {"early_stopping": {"metric": "val_mae", "patience": 9}},
    }  # fmt: skip
    return parse_config(tree | sections, overrides)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Run:
    return ftkeras.train(config(folder), str(tmp_path_factory.mktemp("runs") / "age"))


def truth_of(folder: Path) -> dict[str, float]:
    with (folder / "list.csv").open() as file:
        return {row["path"]: float(row["years"]) for row in csv.DictReader(file) if row["years"]}


def test_one_number_trains_and_is_measured_in_its_units(run, folder):
    recorded, last = run.read_json("evaluation.json"), list(run.metrics())[-1]
    assert recorded["examples"] == 10  # of 12, two are unknown
    said = load_predictions(run, "test")
    [row] = run.read_json("data.json")["heads"]
    known = truth_of(folder)
    answers = said.logits[:, 0] * row["scale"] + row["mean"]
    wanted = mean_absolute_error([known[key] for key in said.ids], answers)
    assert recorded["mae"] == pytest.approx(wanted, rel=1e-4)
    assert recorded["mae"] < recorded["baseline_mae"] / 2
    assert recorded["intervals"]["mae"][0] <= recorded["mae"] <= recorded["intervals"]["mae"][1]
    assert last["val_mae"] < 20 and "mae" in last
    best = min(run.metrics(), key=lambda record: record["val_mae"])
    assert run.read_json("plan.json")["best_epoch"] == best["epoch"]


def test_one_number_is_predicted_and_served_in_its_units(run, folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = [str(folder / "59.png"), str(tmp_path / "broken.png")]
    write_predictions(str(tmp_path / "said.csv"), ftkeras.predict(run, files))
    with (tmp_path / "said.csv").open() as file:
        good, bad = csv.DictReader(file)
    assert list(good) == ["file", "age", "error"]
    assert abs(float(good["age"]) - truth_of(folder)["59.png"]) < 15
    assert bad["age"] == "" and bad["error"]
    write_predictions(str(tmp_path / "said.jsonl"), ftkeras.predict(run, files))
    first = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert first == {"file": files[0], "age": pytest.approx(float(good["age"]), rel=1e-4)}
    served = tf.saved_model.load(run.path("export", "1")).signatures["serving_default"]
    said = served(image_bytes=tf.constant([Path(files[0]).read_bytes()]))
    assert set(said) == {"age_value", "error"}
    assert float(said["age_value"][0]) == pytest.approx(float(good["age"]), abs=0.01)
    card = run.read_json("certificate.json")["saved_model"]["heads"]["age"]
    assert card["kind"] == "number" and card["scale"] > 10
    with pytest.raises(UserError, match=r"onnx: it takes .* labels, not 'age' \(number\)"):
        export(run, formats=["onnx"])


def test_verbs_and_the_report_speak_of_a_number(run, capsys):
    assert main(["evaluate", run.folder, "--assert", "mae<=20", "--assert", "r2.low>=0"]) == 0
    assert "mean absolute error" in capsys.readouterr().out
    page = run.read_text("report.html")
    assert 'id="numbers"' in page and "Answers beside the truth: age" in page
    assert "Always the mean of training" in page and "The largest errors" in page
    for anchor in ("classes", "confusion", "calibration", "mistakes", "labels", "robustness"):
        assert f'id="{anchor}"' not in page
    with pytest.raises(UserError, match=r"one output of classes or labels, not 'age' \(number\)"):
        ftkeras.robustness(run, 4)
    with pytest.raises(UserError, match="compare: it takes one output of classes or labels"):
        ftkeras.compare_runs(run, run)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.name=focal", r"focal does not fit 'age' \(number\). Use auto, mse, mae, huber"),
        ("training.monitor=val_accuracy", "Logged: loss, mae, val_loss, val_mae"),
        ("data.balance=class_weights", "all outputs are numbers"),
        ("data.input.mix.mixup=0.2", "MixUp and CutMix would blend known answers"),
        ("export.formats=[litert]", r"export.formats: litert: it takes .* not 'age' \(number\)"),
        ("outputs.age=classes", "the data have no column 'age'. The columns are label and years"),
        ("data.label_column=years", "leave out label_column, label_columns, "),
        ("outputs.age.column=label", "outputs.age: 'a' of 0.png is not a number"),
    ],
)
def test_what_cannot_work_is_refused_before_training(folder, override, message):
    given = config(folder, override)
    with pytest.raises(UserError, match=message):
        task_of(given).check(given, task_of(given).data(given))


@pytest.mark.parametrize(
    ("task", "section"),
    [
        ("adversarial", {}),
        ("few_shot", {"shots": 2}),
        ("robust_weights", {"method": "wise_ft"}),
        ("domain_adaptation", {"method": "coral", "target": None}),
    ],
)
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"age": {"kind": "number", "column": "years"}}, r"'age' \(number\)"),
        ({"label": "labels"}, r"'label' \(labels\)"),
        ({"label": "classes", "years": "number"}, r"'label' \(classes\), 'years' \(number\)"),
    ],
)
def test_tasks_of_classes_refuse_other_outputs_by_name(folder, task, section, asked, told):
    data = config(folder).data.model_dump()
    section = {k: data if k == "target" else v for k, v in section.items()}
    given = config(folder, task=task, outputs=asked, training={}, **{task: section})
    message = f"task {task}: it takes one output, which is one of several classes, not {told}"
    with pytest.raises(UserError, match=message):
        task_of(given).check(given, task_of(given).data(given))


def test_a_class_from_a_column_is_a_plain_classification(folder):
    given = config(folder, outputs={"side": {"column": "label"}}, training={})
    data = task_of(given).data(given)
    assert data.class_names == ("a", "b") and data.splits["train"].labels.tolist()[:2] == [0, 1]
    assert not data.splits["train"].answers
    task_of(given).check(given, data)


def test_several_outputs_of_a_classification_weigh_the_same(folder):
    given = config(folder, outputs={"label": "classes", "years": "number"}, training={})
    task = task_of(given)
    data = task.data(given)
    task.check(given, data)
    assert task.logged(given, data)[-2:] == ["label_accuracy", "years_mae"]
    assert type(task).__name__ == "MultiTask"
