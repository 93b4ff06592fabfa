"""The whole doctor, on a clean folder and on one with every fault planted in it."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ftkeras.cli.main import main
from ftkeras.config.load import parse_config
from ftkeras.doctor import examine

pytestmark = pytest.mark.slow

TREE = {
    "data": {"source": "folder", "path": "photos", "input": {"size": 32}, "batch_size": 8},
    "backbone": {"name": "MobileNetV2", "weights": "starter"},
    "phases": [{"name": "head", "train": ["head"], "epochs": 9, "learning_rate": 1e-3}],
}


def diagnose(folder: Path | None = None, **data: object):
    given = {"path": str(folder), **data} if folder else data
    tree = {**TREE, "data": {**TREE["data"], **given}}
    if "source" in data:
        del tree["data"]["path"]
    return examine(parse_config(tree))


def plant(photos: Path, new_photo) -> None:
    """Plants one fault of each kind."""
    train, val, test = (photos / split for split in ("train", "val", "test"))
    (train / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff not really")
    shutil.copy(train / "cat" / "0.png", train / "cat" / "0 (copy).png")
    shutil.copy(train / "cat" / "1.png", test / "cat" / "leaked.png")
    shutil.copy(train / "cat" / "2.png", train / "dog" / "really a cat.png")
    Image.open(train / "dog" / "3.png").save(val / "dog" / "again.jpg", quality=80)
    (train / "fox").mkdir()
    for i in range(4):
        new_photo(5000 + i).save(train / "fox" / f"{i}.png")
    (test / "gnu").mkdir()
    new_photo(6000).save(test / "gnu" / "0.png")
    Image.new("RGB", (50, 50), (0, 0, 90)).save(train / "emu" / "blank.png")
    new_photo(6001, 6, 6).save(train / "emu" / "icon.png")
    new_photo(6002, 400, 60).save(train / "emu" / "banner.png")
    for i in range(10, 15):
        for name in ("cat", "dog", "emu"):
            grey = Image.open(train / name / f"{i}.png").convert("L")
            grey.save(train / name / f"{i}.png")


def test_a_clean_folder_gives_no_alarm(make_photos, tmp_path):
    diagnosis = diagnose(make_photos(tmp_path / "photos"))
    assert [f for f in diagnosis.findings if f.severity != "note"] == []
    assert diagnosis.exit_status == 0
    assert diagnosis.facts["data"] == "folder: 90 train, 60 val, 60 test; 3 classes"
    assert "phase head" in diagnosis.facts["a step"]


def test_the_starter_gives_no_alarm():
    """Its garments on black all look alike."""
    diagnosis = diagnose(source="starter")
    assert {f.check for f in diagnosis.findings} == set()


@pytest.mark.parametrize(
    ("mode", "end"),
    [("on", " s, from a stored trunk"), ("off", "about 1 h 00 min, without validation")],
)
def test_an_epoch_takes_time_beside_its_steps(make_photos, tmp_path, monkeypatch, mode, end):
    """It has 9 epochs. The forecast of a stored trunk has the same time for each."""
    monkeypatch.setattr(importlib.import_module("ftkeras.doctor.examine"), "EPOCH", 400.0)
    monkeypatch.setitem(TREE, "trunk", {"mode": mode})
    given = {"size": 32, "augmentation": "none"}
    step = diagnose(make_photos(tmp_path / "photos"), input=given).facts["a step"]
    assert step.endswith(end)


def test_every_planted_fault_is_found(make_photos, new_photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plant(make_photos(tmp_path / "photos"), new_photo)
    Path("c.yaml").write_text(json.dumps(TREE))
    assert main(["doctor", "--config=c.yaml", "--out=all.csv", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit_status"] == 1
    assert "'gnu'" in printed["facts"]["model"]  # training would refuse these data
    with open("all.csv", newline="") as file:
        found = {(r["check"], r["split"], r["name"]): r["severity"] for r in csv.DictReader(file)}
    planted = {
        ("unreadable files", "", f"{tmp_path}/photos/train/cat/broken.jpg"): "warning",
        ("duplicates", "train", "train/cat/0.png"): "warning",
        ("duplicates", "train", "train/dog/really a cat.png"): "warning",
        ("contradictory labels", "train", "train/dog/really a cat.png"): "warning",
        ("duplicates across splits", "test", "test/cat/leaked.png"): "error",
        ("near-duplicates across splits", "val", "val/dog/again.jpg"): "warning",
        ("tiny classes", "", "fox"): "warning",
        ("class missing from val", "val", "fox"): "warning",
        ("class missing from test", "test", "fox"): "warning",
        ("class missing from train", "", "gnu"): "error",
        ("blank images", "train", "train/emu/blank.png"): "warning",
        ("tiny images", "train", "train/emu/icon.png"): "warning",
        ("long images", "train", "train/emu/banner.png"): "warning",
        **{
            ("grey and colour", "train", f"train/{name}/{i}.png"): "note"
            for i in range(10, 15)
            for name in ("cat", "dog", "emu")
        },
    }
    assert found == planted


def test_a_shift_of_images_and_labels_is_found(make_photos, tmp_path):
    photos = make_photos(tmp_path / "photos")
    for path in (photos / "test").rglob("*.png"):  # another camera
        image = Image.open(path).filter(ImageFilter.GaussianBlur(4))
        noise = np.random.default_rng(0).normal(0, 40, (*image.size[::-1], 1))
        pixels = np.clip(np.asarray(image) * 0.5 + noise, 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    for name in ("dog", "emu"):
        for path in sorted((photos / "val" / name).iterdir())[2:]:
            path.unlink()
    found = {f.check: f for f in diagnose(photos).findings if f.severity != "note"}
    assert set(found) == {"image shift", "label shift"}
    assert "test" in found["image shift"].message
    assert str(found["label shift"].evidence[0]) == "val: cat  (33.3% of train, 83.3% of val)"


def test_a_config_that_cannot_work_is_an_error(make_photos, tmp_path):
    tree = {**TREE, "data": {**TREE["data"], "path": str(make_photos(tmp_path / "photos"))}}
    tree["phases"] = [{"name": "top", "train": ["blocks[40:]"], "epochs": 1, "learning_rate": 1.0}]
    (found,) = (f for f in examine(parse_config(tree)).findings if f.severity == "error")
    assert "selects nothing" in found.message


def test_few_examples_a_class_are_no_finding_where_they_are_the_task(make_photos, tmp_path):
    data = {**TREE["data"], "path": str(make_photos(tmp_path / "photos"))}
    few = {"shots": 4, "methods": ["logistic"]}
    diagnosis = examine(parse_config({**TREE, "data": data, "task": "few_shot", "few_shot": few}))
    assert [f for f in diagnosis.findings if f.severity != "note"] == []
    assert "a step" not in diagnosis.facts  # nothing is trained


def test_several_heads_are_named_and_judged_by_their_task(make_photos, tmp_path):
    photos = make_photos(tmp_path / "photos")
    rows = ["path,split,animal,size"]
    for path in sorted(photos.rglob("*.png")):
        split, animal, name = path.parts[-3:]
        rows.append(f"{split}/{animal}/{name},{split},{animal},{len(name)}")
    (photos / "list.csv").write_text("\n".join(rows))
    heads = [
        {"name": "animal", "column": "animal"},
        {"name": "size", "column": "size", "kind": "number"},
    ]
    tree = {
        **TREE,
        "task": "multi_task",
        "multi_task": {"heads": heads},
        "data": {**TREE["data"], "source": "manifest", "path": str(photos / "list.csv")},
    }
    diagnosis = examine(parse_config(tree))
    assert diagnosis.facts["data"].endswith("; outputs 'animal' (classes), 'size' (number)")
    assert diagnosis.exit_status == 0
    alone = {"heads": heads[:1], "weighting": "gradnorm"}
    [error] = [
        finding.message
        for finding in examine(parse_config({**tree, "multi_task": alone})).findings
        if finding.severity == "error"
    ]
    assert "gradnorm balances" in error  # not: there is no column 'label'


def test_the_machine_alone(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "GFLOP/s in float32" in text
    assert text.isascii()
