"""Runs that start from a linear model on frozen features, and choose what they keep."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.data.pipeline import Examples
from ftkeras.data.share import Share
from ftkeras.evaluation.floor import against_floor, floor_lines, sentence
from ftkeras.evaluation.predict import predict_outputs
from ftkeras.evaluation.predictions import Predictions, load_predictions
from ftkeras.measures.linear import STRENGTHS
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.base import Answers
from ftkeras.outputs.number import Number
from ftkeras.outputs.one_of import OneOf
from ftkeras.phases.blend import weights_of_model
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.runs.floor import Floor, _scale, find_floor, start_from
from ftkeras.training.segments import stores_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """60 images of 32 px in a manifest: class by brightness, two labels, a number; a few gaps."""
    from PIL import Image

    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "tags", "age", "split"])
        for number in range(60):
            light = number % 3
            pixels = random.integers(0, 120, (32, 32, 3)) + 60 * light
            pixels[..., 0] //= 1 + 3 * (number % 2)  # every other one is not warm
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
            tags = ";".join(["bright"] * (light == 2) + ["warm"] * (number % 2 == 0))
            age = "" if number % 7 == 3 else f"{10 * light + random.normal():.2f}"
            split = ("train", "train", "val", "test")[number // 3 % 4]
            writer.writerow([f"{number}.png", "abc"[light], tags, age, split])
    return folder


@pytest.fixture
def config(photos, tiny_backbone) -> Callable[..., Any]:
    def make(head=None, training=None, outputs=None, weights="imagenet", trunk="auto"):
        two = [
            {"name": "head", "train": ["head"], "epochs": 1, "learning_rate": 1e-3},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 1, "learning_rate": 1e-4},
        ]
        return parse_config(
            {
                "data": {
                    "source": "manifest",
                    "path": str(photos / "rows.csv"),
                    "input": {"size": 32, "augmentation": "none" if trunk == "on" else "light"},
                },
                "backbone": {"name": tiny_backbone, "weights": weights},
                "phases": two,
                "trunk": {"mode": trunk},
                "head": head or {},
                "training": training or {},
                "export": {"saved_model": False},
                "report": False,
                **({"outputs": outputs} if outputs else {}),
            }
        )

    return make


def test_only_a_random_head_is_warned_of(config):
    def warnings(**changes) -> str:
        made = config(**changes)
        made = made.model_copy(update={"phases": made.phases[1:]})
        return " ".join(assemble(made).plan.warnings)

    assert "random head" not in warnings().lower()
    assert "random head" in warnings(head={"start": "random"}).lower()
    assert "random head" not in warnings(weights="none").lower()


SEVERAL = {"label": "classes", "tags": "labels", "age": "number"}


@pytest.mark.parametrize("outputs", [None, {"tags": "labels"}, {"age": "number"}, SEVERAL])
def test_the_head_starts_as_the_floor_for_every_kind_of_output(config, tmp_path, outputs):
    assembled = assemble(config(outputs=outputs))
    run = Run.create(str(tmp_path / "run"), assembled.config)
    floor = find_floor(assembled, run, "test")
    assert floor is not None and floor.examples == 30
    before, _ = predict_outputs(assembled.model, assembled.feed.plain("test"), "before")
    assert start_from(floor, assembled.model)
    said, _ = predict_outputs(assembled.model, assembled.feed.plain("test"), "after")
    for name, output in assembled.data.outputs.items():
        kept = load_predictions(run, "floor-test" if outputs != SEVERAL else f"floor-test-{name}")
        own = said[name] if isinstance(said, dict) else said
        known = assembled.data.splits["test"].answers_to(name).places
        np.testing.assert_allclose(own[known], kept.logits, rtol=1e-3, atol=1e-3)
        # The classes are told by brightness: the floor has learned them, the first head has not.
        first = before[name] if isinstance(before, dict) else before
        after = output.costs(kept.labels, kept.logits).mean()
        assert after < output.costs(kept.labels, np.asarray(first)[known]).mean()


def test_a_start_that_dropout_would_drown_is_scaled_down(config, tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    shared = 5 + random.normal(size=200)
    drowned = np.column_stack([shared + 0.1 * (labels - 0.5), shared]).astype(np.float32)
    plain = np.column_stack([labels - 0.5, 1 - labels]).astype(np.float32)
    hot = np.eye(2, dtype=np.float32)[labels]
    known = Answers(labels, 2), Answers(hot, 2)
    for output, answers in zip((OneOf(("a", "b")), AnyOf(("a", "b"))), known, strict=True):
        head = output.linear(drowned.astype(np.float64), answers.values, 100.0)
        assert np.mean((head(drowned) > 0) == (hot > 0)) > 0.95
        assert _scale(output, head, drowned, answers, 0.2, 0) <= 1 / 16
        assert _scale(output, head, drowned, answers, 0.0, 0) == 1
        head = output.linear(plain.astype(np.float64), answers.values, 1.0)
        assert _scale(output, head, plain, answers, 0.2, 0) == 1
    ages = Answers(labels[:, np.newaxis].astype(np.float32), 1)
    head = Number().linear(drowned.astype(np.float64), ages.values, 100.0)
    assert _scale(Number(), head, drowned, ages, 0.2, 0) == 1

    monkeypatch.setattr("ftkeras.runs.floor._scale", lambda *_: 0.25)
    assembled, floors = assemble(config()), []
    run = Run.create(str(tmp_path / "run"), assembled.config)
    for _ in range(2):  # the second time it is read
        floors.append(find_floor(assembled, run, "test"))
        assert start_from(floors[-1], assembled.model)
        started = assembled.model.get_layer("logits").get_weights()[0]
        np.testing.assert_array_equal(started, 0.25 * floors[-1].heads["label"].kernel)
    assert capsys.readouterr().out.count("times 0.25 for the start, because of the dropout") == 1


def test_a_run_that_resumes_takes_the_floor_that_it_began_with(config, tmp_path):
    assembled = assemble(config())
    run = Run.create(str(tmp_path / "run"), assembled.config)
    first = find_floor(assembled, run, "test")
    os.utime(run.path("floor.npz"), (1, 1))
    again = find_floor(assemble(config()), run, "test")
    assert first is not None and again is not None and os.stat(run.path("floor.npz")).st_mtime == 1
    np.testing.assert_array_equal(first.heads["label"].kernel, again.heads["label"].kernel)
    assert (first.strengths, first.examples) == (again.strengths, again.examples)
    assert isinstance(Floor.load(run, {"label": None}), Floor)


def test_a_second_run_finds_the_floor_of_the_first(config, tmp_path, cache, monkeypatch):
    fits, fit = [], OneOf.linear

    def counted(self, features, values, strength, weights=None):
        fits.append(strength)
        return fit(self, features, values, strength, weights)

    monkeypatch.setattr(OneOf, "linear", counted)
    assembled, floors = assemble(config()), []
    for name in ("first", "second"):
        run = Run.create(str(tmp_path / name), assembled.config)
        floors.append(find_floor(assembled, run, "test"))
        assert len(fits) == len(STRENGTHS) + 1  # of the first run
    [first, second] = [floor.heads["label"] for floor in floors]
    assert first.kernel.tobytes() == second.kernel.tobytes()
    assert first.bias.tobytes() == second.bias.tobytes()
    assert floors[0].strengths == floors[1].strengths
    [kept] = cache.glob("floor/*.npz")
    kept.write_bytes(b"broken")
    again = find_floor(assembled, Run.create(str(tmp_path / "third"), assembled.config), "test")
    assert again.heads["label"].kernel.tobytes() == first.kernel.tobytes()
    assert len(fits) == 2 * (len(STRENGTHS) + 1)


CHOSEN, TRAINED = {"training": {"end": "chosen"}}, {"training": {"end": "trained"}}
RANDOM, HIDDEN = {"head": {"start": "random"}}, {"head": {"hidden": [{"units": 8}]}}


@pytest.mark.parametrize("change", [CHOSEN, TRAINED, RANDOM, HIDDEN])
def test_a_run_says_what_it_kept_and_how_that_compares(
    config, tmp_path, capsys, monkeypatch, change
):
    started: list[bool] = []

    def start(floor, model):
        started.append(start_from(floor, model))
        return started[0]

    monkeypatch.setattr("ftkeras.runs.train.start_from", start)
    run = ftkeras.train(config(**change), str(tmp_path / "run"))
    shown, evaluation = capsys.readouterr().out, run.read_json("evaluation.json")
    floor = load_predictions(run, "floor-test")
    right = (floor.logits.argmax(axis=1) == floor.labels).mean()
    assert evaluation["floor"]["accuracy"] == pytest.approx(right)
    gain = evaluation["accuracy"] - evaluation["floor"]["accuracy"]
    assert evaluation["floor"]["difference"] == pytest.approx(gain)
    assert sentence(evaluation["floor"]) in shown
    assert started == {str(RANDOM): [], str(HIDDEN): [False]}.get(str(change), [True])
    if change != CHOSEN:
        assert "kept  " not in shown and not os.path.exists(run.path("floor.json"))
        return
    kept = run.read_json("floor.json")
    assert f"kept      {kept['kept']}: validation accuracy" in shown
    measured = load_predictions(run, "val")
    own = (measured.logits.argmax(axis=1) == measured.labels).mean()
    assert kept["validation"][kept["kept"]] == pytest.approx(own)
    again = ftkeras.evaluate(run)
    assert again["floor"] == evaluation["floor"]


def test_what_is_kept_is_one_of_three(config, tmp_path, capsys, monkeypatch):
    """Whichever is chosen, the model has those very weights."""
    from ftkeras.runs import floor as module

    begin: list[list[np.ndarray]] = []
    monkeypatch.setattr(module, "_BETWEEN", {"half way between": 0.5})
    original = module.choose_end

    def choose(assembled, run, start):
        trained = weights_of_model(assembled.model)
        original(assembled, run, start)
        begin.extend([start, trained, weights_of_model(assembled.model)])

    monkeypatch.setattr("ftkeras.runs.train.choose_end", choose)
    ftkeras.train(config(), str(tmp_path / "run"))
    moved = 0
    for start, trained, kept in zip(*begin, strict=True):
        if np.issubdtype(kept.dtype, np.floating) and kept.ndim > 1:
            np.testing.assert_allclose(kept, (start + trained) / 2, atol=1e-6)
            moved += not np.array_equal(start, trained)
    assert moved


def found(config, tmp_path, **changes) -> tuple[Floor | None, Run]:
    """Returns the floor of a config that is not trained, and the run that keeps it."""
    assembled = assemble(config(**changes))
    run = Run.create(str(tmp_path / "run"), assembled.config)
    return find_floor(assembled, run, "test"), run


def test_a_backbone_that_knows_nothing_has_no_floor(config, tmp_path):
    floor, run = found(config, tmp_path, weights="none")
    assert floor is None and not os.path.exists(run.path("floor.npz"))


def test_some_examples_are_enough(config, tmp_path, monkeypatch):
    """Of many, some are fitted on; those of train are nowhere mistaken for all of them."""
    monkeypatch.setattr("ftkeras.runs.floor.MOST", 20)
    floor, run = found(config, tmp_path)
    assert floor is not None and floor.examples == 20
    assert len(load_predictions(run, "floor-test").ids) == 15
    assembled = assemble(config())
    only = dataclasses.replace(assembled.data, splits={"train": assembled.data.splits["train"]})
    feed = dataclasses.replace(assembled.feed, data=only)
    alone = dataclasses.replace(assembled, data=only, feed=feed)
    other = Run.create(str(tmp_path / "other"), assembled.config)
    again = find_floor(alone, other, "train")
    assert again is not None and again.examples == 20
    np.testing.assert_array_equal(again.heads["label"].kernel, floor.heads["label"].kernel)


@pytest.mark.parametrize(("passes", "free", "is_there"), [(0.5, 500, True), (0.1, 10, False)])
def test_where_it_would_not_pay_a_line_says_so(
    config, tmp_path, monkeypatch, capsys, passes, free, is_there
):
    monkeypatch.setattr("ftkeras.runs.floor._PASSES", passes)
    monkeypatch.setattr("ftkeras.runs.floor._FREE", free)
    floor, _ = found(config, tmp_path)
    shown = capsys.readouterr().out
    assert (floor is not None) == is_there
    said = "floor     none: it would run 45 examples, for 2 epochs of 45."
    assert (said in shown) != is_there


def test_features_from_a_store_are_those_of_the_model(config, tmp_path, cache, monkeypatch):
    """And the store is made once: the first phase takes it over."""
    begun: list[str] = []
    monkeypatch.setattr("ftkeras.runs.floor.import_beside", begun.append)
    plain, _ = found(config, tmp_path, trunk="off")
    assembled = assemble(config(trunk="on"))
    run = Run.create(str(tmp_path / "stored"), assembled.config)
    stored = find_floor(assembled, run, "test")
    assert plain is not None and stored is not None and assembled.trunk is not None
    made = assembled.trunk.first_stores
    assert made is not None and set(made) == {"train", "val", "test"}
    np.testing.assert_allclose(
        stored.heads["label"].kernel, plain.heads["label"].kernel, rtol=1e-2, atol=1e-3
    )
    parts = (assembled.model, assembled.feed, assembled.unfreeze, assembled.trunk, 0)
    assert stores_of(*parts) is made
    assert assembled.trunk.first_stores is None  # a phase that begins again finds or makes its own
    find_floor(assembled, Run.create(str(tmp_path / "again"), assembled.config), "test")
    assert begun == ["sklearn.linear_model"]  # only while the store was being made


@pytest.mark.parametrize(("dtype", "through"), [("float32", [1, 1, 1]), ("float16", [1, 5, 2])])
def test_images_run_through_a_frozen_trunk_once(
    config, tmp_path, monkeypatch, cache, dtype, through
):
    """And what is measured is what the saved model answers: a rounded store measures nothing."""
    reads: Counter[tuple[str, int]] = Counter()
    read = Examples.__call__

    def counted(self, index, at):
        def count(place):
            reads[self._split.name, int(place)] += 1
            return place

        return read(self, tf.ensure_shape(tf.numpy_function(count, [index], tf.int64), []), at)

    monkeypatch.setattr(Examples, "__call__", counted)
    asked = config(trunk="on")
    trunk = asked.trunk.model_copy(update={"dtype": dtype})
    run = ftkeras.train(asked.model_copy(update={"trunk": trunk}), str(tmp_path / "run"))
    times = {name: [n for (split, _), n in reads.items() if split == name]
             for name in ("train", "val", "test")}  # fmt: skip
    assert list(times.values()) == [[n] * c for n, c in zip(through, (30, 15, 15), strict=True)]
    measured = {name: load_predictions(run, name).logits for name in ("val", "test")}
    evaluation, again = run.read_json("evaluation.json"), ftkeras.evaluate(run)
    ftkeras.evaluate(run, "val")
    for name, logits in measured.items():
        np.testing.assert_allclose(logits, load_predictions(run, name).logits, rtol=1e-4, atol=1e-4)
    assert again["accuracy"] == evaluation["accuracy"]
    if dtype == "float16":
        assert again == evaluation


def test_of_equals_half_way_is_kept_and_the_floor_last(config, tmp_path, monkeypatch, capsys):
    wrong = {"choose: half way between": 0, "choose: fine-tuned": 0, "choose: floor": 0}
    from ftkeras.runs import floor as module

    asked: list[str] = []

    def answers(model, feed, split, label):
        asked.append(label)
        return label

    def badness(assembled, said):
        return (np.arange(15) < wrong[said]).astype(float)

    monkeypatch.setattr(module, "predict_split", answers)
    monkeypatch.setattr(module, "_badness", badness)
    assembled = assemble(config())
    run = Run.create(str(tmp_path / "run"), assembled.config)
    start = weights_of_model(assembled.model)
    assert module.choose_end(assembled, run, start) == 0.5 and sorted(asked) == sorted(wrong)
    assert capsys.readouterr().out.endswith("; of equals it comes first\n")
    wrong["choose: half way between"] = 1
    assert module.choose_end(assembled, run, start) == 1.0
    wrong["choose: fine-tuned"] = 1
    assert module.choose_end(assembled, run, start) == 0.0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.startswith("kept      floor: validation accuracy 1.0000") and "equal" not in shown


def test_each_kind_of_output_is_compared_by_its_own_measure():
    ids, random = np.arange(40).astype(str), np.random.default_rng(0)
    classes = random.integers(0, 2, 40)
    good, bad = np.eye(2)[classes] * 4, np.eye(2)[1 - classes] * 4
    mixed = np.where(np.arange(40)[:, None] < 20, good, bad)
    part = against_floor(
        OneOf(("a", "b")), Predictions(mixed, classes, ids), Predictions(good, classes, ids)
    )
    assert (part["accuracy"], part["difference"], part["noise"]) == (0.5, 0.5, False)
    assert "fine-tuning gained 50.0 points" in sentence(part)
    [alone] = floor_lines({"floor": part})
    assert "fine-tuning gained" in alone
    # Beside counts, not all that the model gained is owed to fine-tuning.
    for line in floor_lines({"floor": part, "counts": part}):
        assert "the model gained 50.0 points" in line
    hot = np.eye(2)[classes]
    part = against_floor(
        AnyOf(("a", "b")),
        Predictions(8 * hot - 4, hot, ids),
        Predictions(np.where(np.arange(40)[:, None] < 20, 8 * hot - 4, 4 - 8 * hot), hot, ids),
    )
    assert (part["accuracy"], part["difference"]) == (1.0, -0.5)
    assert "fine-tuning lost 50.0 points" in sentence(part)
    truth = random.normal(size=(40, 1))
    part = against_floor(
        Number(mean=50.0, scale=10.0),
        Predictions(truth + 0.2, truth, ids),
        Predictions(truth - 0.1, truth, ids),
    )
    assert part["mae"] == pytest.approx(2.0) and part["difference"] == pytest.approx(-1.0)
    assert "fine-tuning gained 1 (95% interval 1 to 1)" in sentence(part)
    same = Predictions(good, classes, ids)
    assert "the difference is noise" in sentence(against_floor(OneOf(("a", "b")), same, same))


@pytest.mark.parametrize(("workers", "first"), [(1, "top"), (2, "head")])
def test_auto_trains_the_head_first_if_several_workers_fit_no_floor(
    config, monkeypatch, workers, first
):
    share = Share(0, workers, replicas=workers)
    monkeypatch.setattr("ftkeras.runs.assemble.worker_share", lambda strategy: share)
    phases = {"strategy": "auto", "epochs": 2, "learning_rate": 1e-3}
    made = assemble(parse_config({**config().model_dump(exclude_unset=True), "phases": phases}))
    assert made.unfreeze.phases[0].name == first
