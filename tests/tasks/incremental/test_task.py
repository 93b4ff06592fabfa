"""Runs that are extended, again and again, on a tiny backbone and images of plain colours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.cli.main import main
from ftkeras.config.load import parse_config
from ftkeras.doctor import examine
from ftkeras.errors import UserError
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.runs.finished import export
from ftkeras.tasks.incremental.replay import Exemplars

pytestmark = pytest.mark.slow

COLOURS = [(220, 40, 40), (40, 200, 60), (40, 60, 210), (210, 200, 40), (200, 50, 200)]
QUIET = ["export.saved_model=false", "report=false"]


def write_images(path: Path, classes: list[int], each: int = 24, seed: int = 0) -> dict[str, Any]:
    """Writes noisy images of some colours; returns the `data` section that reads them."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(classes)), each)
    images = np.array(COLOURS)[np.array(classes)[labels]][:, None, None] + random.normal(
        0, 40, (len(labels), 16, 16, 3)
    )
    names = [f"colour {c}" for c in classes]
    np.savez(path, images=np.clip(images, 0, 255).astype(np.uint8), labels=labels)
    return {"source": "arrays", "path": str(path), "class_names": names}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a backbone of two convolutions, and a finished run on two colours."""
    place = tmp_path_factory.mktemp("incremental")
    keras.utils.set_random_seed(0)
    images = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 128, -1, name="scale")(images)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="one")(x)
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="two")(x)
    keras.Model(images, x, name="tiny").save(place / "tiny.keras")
    tree = {
        "data": {
            "input": {"size": 16, "augmentation": "none"},
            "batch_size": 8,
            **write_images(place / "old.npz", [0, 1]),
        },
        "backbone": {"name": str(place / "tiny.keras")},
        "phases": [
            {"name": "head", "train": ["head"], "epochs": 2, "learning_rate": 3e-2},
            {"name": "all", "train": ["all"], "epochs": 4, "learning_rate": 1e-2},
        ],
        "trunk": {"mode": "off"},
    }
    ftkeras.train(parse_config(tree, QUIET), str(place / "base"))
    return place


@pytest.fixture(scope="module")
def extended(place) -> Run:
    new = write_images(place / "new.npz", [2, 3], seed=1)
    base = Run.open(str(place / "base"))
    return ftkeras.extend(base, new, str(place / "more"), ["incremental.memory=24", "report=true"])


def config_of(place: Path, data: dict[str, Any], *overrides: str) -> Any:
    from ftkeras.tasks.incremental.extend import extend_config

    base = Run.open(str(place / "base"))
    return extend_config(base.config, base.folder, 16, data, [*QUIET, *overrides])


def test_old_logits_begin_as_they_were_and_new_ones_from_their_images(place, extended):
    assembled = assemble(extended.config)
    images = np.random.default_rng(3).uniform(0, 255, (5, 16, 16, 3)).astype(np.float32)
    old = ftkeras.load_model(Run.open(str(place / "base"))).predict(images, verbose=0)
    grown = assembled.model.predict(images, verbose=0)
    np.testing.assert_allclose(grown[:, :2], old, atol=1e-5)
    train = assembled.data.splits["train"]
    fresh = [i for i in range(len(train)) if train.labels[i] >= 2][:20]
    pixels = np.stack([train.fetch(tf.constant(i)).numpy() for i in fresh]).astype(np.float32)
    answers = assembled.model.predict(pixels, verbose=0)[:, 2:].argmax(axis=1) + 2
    assert np.mean(answers == train.labels[fresh]) > 0.9  # before any training


def test_an_extended_run_knows_old_and_new_classes(extended):
    assert extended.read_json("data.json")["class_names"] == [f"colour {c}" for c in range(4)]
    told = extended.read_json("task.json")
    assert told["steps"] == [["colour 0", "colour 1"], ["colour 2", "colour 3"]]
    [[first], [kept, new]] = told["matrix"]
    assert min(first, kept, new) > 0.8
    assert told["summary"]["backward_transfer"] == pytest.approx(kept - first)
    evaluation = extended.read_json("evaluation.json")
    assert {name: row["n"] for name, row in evaluation["slices"]["step"].items()} == {
        "0": 7,
        "1": 7,
    }
    assert "What is left of earlier steps" in extended.read_text("report.html")


def test_the_saved_model_has_no_teacher_and_every_verb_works(extended, tmp_path):
    model = keras.models.load_model(extended.path("model.keras"), compile=False, safe_mode=True)
    names = {layer.name for layer in model.layers}
    assert "logits" in names and not names & {"teacher", "distillation"}
    before = extended.read_json("task.json")
    assert (
        ftkeras.evaluate(extended)["accuracy"] == extended.read_json("evaluation.json")["accuracy"]
    )
    assert extended.read_json("task.json") == before
    from PIL import Image

    Image.new("RGB", (16, 16), COLOURS[3]).save(tmp_path / "new.png")
    [answer] = ftkeras.predict(extended, [str(tmp_path / "new.png")])
    assert answer.best[0][0] == "colour 3"
    assert tf.io.gfile.exists(export(extended, str(tmp_path / "out"))["saved_model"])


def test_the_memory_is_shared_out_and_outlives_the_data(place, extended, tmp_path):
    memory = Exemplars.load(extended.path("memory.npz"))
    counts = {
        part: np.bincount(memory.labels[memory.parts == part], minlength=4).tolist()
        for part in ("train", "val", "test")
    }
    assert counts["train"] == [6, 6, 6, 6]  # 24 images, 4 classes
    base = Exemplars.load(str(place / "base" / "memory.npz"))
    for label in (0, 1):  # of the old classes, the first that were chosen stay
        stay = memory.images[memory.rows("train", label)]
        np.testing.assert_array_equal(stay, base.images[base.rows("train", label, 6)])
    gone = tmp_path / "base"
    shutil.copytree(place / "base", gone)
    config = (gone / "config.yaml").read_text()
    (gone / "config.yaml").write_text(config.replace("old.npz", "gone.npz"))
    new = write_images(place / "new.npz", [2, 3], seed=1)
    few = [f"incremental.base={gone}", "incremental.memory=8"]
    data = assemble(config_of(place, new, *few)).data
    assert sum(key.startswith("kept/0/") for key in data.splits["train"].ids) == 8
    (gone / "memory.npz").unlink()
    with pytest.raises(UserError, match=r"has no memory.npz, and its data are gone"):
        assemble(config_of(place, new, f"incremental.base={gone}"))


def test_a_chain_adds_one_class_then_only_images(extended, place):
    one = write_images(place / "one.npz", [4], seed=2)
    third = ftkeras.extend(extended, one, str(place / "third"), [*QUIET, "incremental.ewc=10"])
    again = write_images(place / "again.npz", [0, 4], seed=3)
    fourth = ftkeras.extend(third, again, str(place / "fourth"), QUIET)
    assert fourth.read_json("data.json")["class_names"] == [f"colour {c}" for c in range(5)]
    told = fourth.read_json("task.json")
    assert [len(row) for row in told["matrix"]] == [1, 2, 3, 4]
    assert told["matrix"][:3] == third.read_json("task.json")["matrix"]
    assert told["matrix"][3][3] is None  # no class came in step 3
    memory = Exemplars.load(fourth.path("memory.npz"))
    chosen = memory.ids[memory.rows("train", 0)]
    assert len(chosen) == 24 // 5 and len(set(memory.ids)) == len(memory.ids)
    assert {key.split("/")[1] for key in chosen} <= {"0", "3"}


def test_a_chain_goes_on_without_test_images(place):
    run, none = Run.open(str(place / "base")), ["data.split={test: null}", "incremental.held_out=0"]
    for number, colour in enumerate([2, 3], start=1):
        new = write_images(place / f"untested{number}.npz", [colour], seed=5)
        overrides = ["phases[1].epochs=1", "report=true", *none]
        run = ftkeras.extend(run, new, str(place / f"untested{number}"), [*QUIET, *overrides])
    told = run.read_json("task.json")
    assert told["steps"] == [["colour 0", "colour 1"], ["colour 2"], ["colour 3"]]
    assert told["matrix"][2] == [None, None, None]
    assert run.read_text("report.html")


def test_a_stored_trunk_with_the_teachers_answers_trains_the_same(place, monkeypatch):
    monkeypatch.setenv("FTKERAS_CACHE", str(place / "cache"))
    new = write_images(place / "new.npz", [2, 3], seed=1)
    phases = (
        "phases=[{name: head, train: [head], epochs: 2, learning_rate: 1e-2}, "
        '{name: top, train: [head, "blocks[-1:]"], epochs: 2, learning_rate: 1e-2}]'
    )
    found = {}
    for mode in ("off", "on"):
        config = config_of(place, new, phases, f"trunk.mode={mode}", "head.dropout=0.0")
        run = ftkeras.train(config, str(place / f"trunk-{mode}"))
        found[mode] = [record["loss"] for record in run.metrics()]
        assert run.read_json("plan.json")["trunk"] == [] or mode == "on"
    assert [row["stored"] for row in run.read_json("plan.json")["trunk"]] == [True, True]
    np.testing.assert_allclose(found["on"], found["off"], rtol=1e-4)


def test_a_run_that_is_killed_and_goes_on_ends_the_same(place):
    new = write_images(place / "new.npz", [2, 3], seed=1)
    extra = ["incremental.head=cosine", "incremental.ewc=5", "incremental.correction=bias"]
    config = config_of(place, new, *extra)
    whole = ftkeras.train(config, str(place / "whole"))

    def stop(self: Any, batch: int, logs: Any = None) -> None:
        stop.left -= 1  # type: ignore[attr-defined]
        if not stop.left:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    from ftkeras.training.callbacks.health import GroupHealth

    stop.left = 11  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupHealth, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            ftkeras.train(config, str(place / "parts"))
    parts = ftkeras.train(None, str(place / "parts"))
    for one, two in zip(
        *(ftkeras.load_model(r).get_weights() for r in (whole, parts)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    assert whole.read_json("task.json") == parts.read_json("task.json")
    one, two = (Exemplars.load(r.path("memory.npz")) for r in (whole, parts))
    np.testing.assert_array_equal(one.ids, two.ids)


def test_the_step_compiles_with_xla_and_two_replicas_lose_what_one_does(place, two_replicas):
    new = write_images(place / "new.npz", [2, 3], seed=1)
    light = [
        "incremental.ewc=5",
        "incremental.head=cosine",
        "head.dropout=0.0",
        "phases[0].epochs=1",
    ]
    found = []
    for extra in (["training.strategy=cpu"], ["training.strategy=mirrored"], ["training.jit=true"]):
        assembled = _assemble(config_of(place, new, *light, *extra), two_replicas)
        run = Run(str(place / f"replicas-{len(found)}"))
        found.append(_losses(assembled, run))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)


def _assemble(config: Any, replicas: tf.distribute.Strategy) -> Any:
    from ftkeras.runs import assemble as assembling

    real = assembling.choose_devices
    with pytest.MonkeyPatch.context() as patch:
        if config.training.strategy == "mirrored":
            import dataclasses

            cpu = real("cpu")
            devices = dataclasses.replace(cpu, strategy=replicas)
            patch.setattr(assembling, "choose_devices", lambda _: devices)
        return assemble(config)


def _losses(assembled: Any, run: Run) -> list[float]:
    from ftkeras.training.fit import fit
    from ftkeras.training.resume.checkpoint import Checkpoints

    tf.io.gfile.makedirs(run.path("checkpoints"))
    fit(
        assembled.model,
        assembled.feed,
        unfreeze=assembled.unfreeze,
        checkpoints=Checkpoints(assembled.model, run, "val_accuracy"),
        callbacks=assembled.callbacks,
    )
    return [record[name] for record in run.metrics() for name in ("loss", "val_loss")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["incremental.base=no/such"], "no/such is not a run"),
        (
            ["data.split={val: null}", "incremental.held_out=0", "incremental.correction=bias"],
            "val",
        ),
        (["head.hidden=[{units: 4}]"], "has other layers"),
        (["data.input.size=32"], "data.input.size: 32, but .* memory have 16"),
        (["backbone.reinitialize=1"], "backbone.reinitialize: an extension begins"),
        (["backbone.activation={relu: gelu}"], "its answers would change"),
        (["incremental.distilation=1"], "Did you mean 'distillation'"),
    ],
)
def test_what_cannot_work_is_said_before_training(place, overrides, message):
    with pytest.raises(UserError, match=message):
        assemble(config_of(place, write_images(place / "new.npz", [2, 3]), *overrides))


def test_the_doctor_minds_no_class_whose_images_are_gone(place):
    """Without replay the old classes have none; that is what distillation is for."""
    alone = ["incremental.replay=false", "incremental.held_out=0"]
    config = config_of(place, write_images(place / "new.npz", [2, 3]), *alone)
    assert examine(config).exit_status == 0


def test_the_command_line(place, tmp_path, capsys):
    names = "class_names: [colour 2, colour 3]"
    more = f"data: {{source: arrays, path: {place}/new.npz, {names}}}\n"
    (tmp_path / "more.yaml").write_text(more)
    base, out = str(place / "base"), str(tmp_path / "out")
    quick = ["--set", "phases[0].epochs=1", "--set", "phases[1].epochs=1"]
    quiet = [part for override in QUIET for part in ("--set", override)]
    assert main(["extend", base, f"--data={tmp_path}/more.yaml", f"--out={base}"]) == 2
    assert "this is the run to extend" in capsys.readouterr().err
    assert (
        main(["extend", base, f"--data={tmp_path}/more.yaml", f"--out={out}", *quick, *quiet]) == 0
    )
    assert json.loads(Path(out, "task.json").read_text())["steps"][0] == ["colour 0", "colour 1"]
    assert main(["extend", base, f"--out={out}"]) == 2
    assert "--data is missing" in capsys.readouterr().err


def test_nothing_is_remembered_where_there_is_nothing_new(place, tmp_path, capsys):
    shutil.copytree(place / "base", tmp_path / "base", ignore=shutil.ignore_patterns("memory.npz"))
    before = sorted(tmp_path.rglob("*"))
    command = ["extend", f"{tmp_path}/base", "--data=nowhere", f"--out={tmp_path}/out"]
    assert main(command) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
