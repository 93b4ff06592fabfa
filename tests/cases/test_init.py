"""Case 25: the first minutes with a folder of one's own."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from ftkeras import load_config, load_data


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_refuses_a_folder_that_is_not_there(folder, ftkeras):
    """Source: seen on version 0.1."""
    done = ftkeras("init", "my.yaml", "--data=phtos/")
    assert done.status == 2, done.out
    assert "phtos" in done.err
    assert not Path("my.yaml").exists()


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_init_does_not_take_a_table_for_a_folder(folder, ftkeras, name):
    """Source: seen on version 0.1. It may refuse the file, or write what reads it."""
    Path(name).write_text("path,label\na.png,cat\nb.png,dog\n")
    done = ftkeras("init", "my.yaml", f"--data={name}")
    assert done.status == 2 or load_config("my.yaml").data.source == "manifest"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("MobilNetV2", "MobileNetV2"), ("EfficientNetV2B", "EfficientNetV2B"), ("resnet5O", "ResNet")],
)
def test_init_refuses_a_misspelt_backbone(folder, ftkeras, draw, wrong, meant):
    """Source: seen on version 0.1."""
    draw(folder / "photos", {"cat": 1, "dog": 1})
    done = ftkeras("init", "my.yaml", "--data=photos/", f"--backbone={wrong}")
    assert done.status == 2, done.out
    assert f"Did you mean '{meant}" in done.err
    assert not Path("my.yaml").exists()


def test_the_hint_of_init_can_be_pasted(folder, ftkeras):
    """Source: seen on version 0.1."""
    done = ftkeras("init", "my config.yaml")
    _, found, hint = done.out.strip().rpartition("next: ")
    if done.status != 0 or not found:
        raise RuntimeError(f"there is no hint: {done}")
    assert shlex.split(hint) == ["ftkeras", "doctor", "--config=my config.yaml"]


def test_a_hint_of_init_needs_no_connection_and_suits_the_weights(folder, ftkeras, draw):
    """Source: seen on version 0.2: the hint was --weights=FILE, and starter trained at 224 px."""
    draw(folder / "photos", {"cat": 1, "dog": 1})
    done = ftkeras("init", "my.yaml", "--data=photos", "--backbone=EfficientNetV2B0")
    hint = re.search("without a connection: (.*)", done.out)[1].split()
    assert ftkeras("init", "starter.yaml", "--data=photos", *hint).status == 0
    config = load_config("starter.yaml")
    assert (config.backbone.name, config.backbone.weights) == ("MobileNetV2", "starter")
    assert config.data.input.size == 160
    assert load_config("my.yaml").data.input.size is None


@pytest.mark.parametrize(
    ("counts", "part"),
    [
        ({"all/cat": 1, "all/dog": 1}, "Did you mean photos/all, which has 2 folders?"),
        ({".": 1}, "holds no folders"),
    ],
)
def test_init_refuses_a_folder_without_classes(folder, ftkeras, draw, counts, part):
    """Source: seen on version 0.2."""
    draw(folder / "photos", counts)
    done = ftkeras("init", "my.yaml", "--data=photos")
    assert done.status == 2 and part in done.err
    assert not Path("my.yaml").exists()


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_the_hints_of_train_can_be_pasted(trained, verb):
    """Source: seen on version 0.1: the run's folder has a space."""
    hints = re.findall(rf"ftkeras {verb} .*", trained.printed)
    if len(hints) != 1:
        raise RuntimeError(f"there is no hint: {trained.printed}")
    assert shlex.split(hints[0])[2] == trained.run


@pytest.mark.parametrize("source", ["folder", "manifest", "arrays"])
def test_the_home_folder_may_be_a_tilde(folder, draw, monkeypatch, source):
    """Source: seen on version 0.1."""
    monkeypatch.setenv("HOME", str(folder))
    draw(folder / "photos", {"cat": 8, "dog": 8})
    rows = [f"photos/{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(8)]
    Path("list.csv").write_text("\n".join(["path,label", *rows]))
    np.savez("data.npz", images=np.zeros((16, 8, 8, 3), np.uint8), labels=np.arange(16) % 2)
    path = {"folder": "photos", "manifest": "list.csv", "arrays": "data.npz"}[source]
    data = load_data(source, path=f"~/{path}")
    assert sum(map(len, data.splits.values())) == 16


@pytest.mark.parametrize("names", [("Cat", "Dog", "cat"), ("big cat", "big_cat", "Dog")])
def test_plan_names_the_classes(place, ftkeras, draw, names):
    """Source: seen on version 0.1: folders `Cat` and `cat` become two classes unseen."""
    draw(Path("mixed"), dict.fromkeys(names, 10))
    split = "--set=data.split={val: 0.2, test: 0.2}"
    done = ftkeras("plan", "--config=c.yaml", "--set=data.path=mixed", split)
    assert done.status == 0, done.err
    shown = re.search(r"^classes   (.*)$", done.out, re.MULTILINE)
    assert shown and shown[1] == ", ".join(f"{n} 6" for n in sorted(names)) + (
        " (examples to train on)"
    )
    first, second = sorted(name for name in names if name != "Dog")
    assert f"classes {first!r} and {second!r} look like one name in several spellings" in done.out


def test_many_classes_are_cut_short(place, ftkeras, draw):
    draw(Path("many"), {f"class_{i:02}": 3 for i in range(33)})
    done = ftkeras("plan", "--config=c.yaml", "--set=data.path=many")
    assert done.status == 0, done.err
    assert "class_29 " in done.out and "and 3 more" in done.out and "class_30" not in done.out


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("id,review,label\n1,a fine caf\u00e9,good\n2,so dull,bad\n", "review"),
        ("Text;text;label\na b c d;one two;x\n", "text"),
        ("path,caption,label\na.png,a black cat,cat\n", None),
        ("file,label\na.png,cat\n", None),
        ("", None),
    ],
)
def test_init_knows_a_table_of_texts(folder, ftkeras, table, column):
    Path("list.csv").write_text(table, encoding="latin-1")
    done = ftkeras("init", "my.yaml", "--data=list.csv")
    assert done.status == 0, done.err
    config = load_config("my.yaml")
    assert config.backbone.name == ("gru" if column else "MobileNetV2")
    assert getattr(config.data.input, "column", None) == column
    assert (f"column {column!r}" in done.out) == bool(column)


def test_init_knows_a_folder_of_texts(folder, ftkeras):
    Path("notes/good").mkdir(parents=True)
    Path("notes/good/1.txt").write_text("a fine film")
    done = ftkeras("init", "my.yaml", "--data=notes/")
    assert done.status == 0, done.err
    assert load_config("my.yaml").data.input.kind == "text"


TICKETS = [f"when will my lamp number {i} ship" for i in range(12)]


@pytest.mark.parametrize(
    ("backbone", "missing"),
    [
        ("hf://sentence-transformers/all-MiniLM-L6-v2", ""),
        ("keras_hub/bert_base_en", ""),
        ("keras_hub/bert_base_en", "keras_hub"),  # the kind of a preset is then unknown
        ("hf://sentence-transformers/all-MiniLM-L6-v2", "tensorflow_text"),
    ],
)
def test_the_data_decide_the_kind_if_a_backbones_name_does_not(
    folder, ftkeras, monkeypatch, backbone, missing
):
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    rows = [f"{text},{i % 3}" for i, text in enumerate(TICKETS)]
    Path("tickets.csv").write_text("\n".join(["message,topic", *rows]))
    done = ftkeras("init", "my.yaml", "--data=tickets.csv", f"--backbone={backbone}")
    assert done.status == 0, done.err
    config = load_config("my.yaml")
    assert (config.backbone.name, config.data.input.kind) == (backbone, "text")
    assert (config.data.input.column, config.data.label_column) == ("message", "topic")
    assert config.phases[-1].train == ["head", "blocks[-2:]"]
    assert "column 'message'" in done.out and "column 'topic'" in done.out
    assert "\n  weights: " not in Path("my.yaml").read_text()  # it has its own
    needs = f"{backbone} needs {missing}, not installed here. Run: pip install keras-hub "
    assert ("pip install" in done.out, needs in done.out) == (bool(missing), bool(missing))


def test_init_asks_for_the_labels_that_it_does_not_find(folder, ftkeras):
    Path("one.csv").write_text("\n".join(["message,topic", *(f"{t},lamps" for t in TICKETS)]))
    done = ftkeras("init", "one.yaml", "--data=one.csv")
    assert done.status == 0, done.err
    assert "no column of labels was found among topic: one has at least two values" in done.out
    assert "name it in the config (data.label_column)" in done.out
    assert "labels are read" not in done.out
    plan = ftkeras("plan", "--config=one.yaml")
    assert plan.status == 2 and "no column 'label'" in plan.err


def test_a_run_of_images_on_texts_leaves_the_backbone_to_the_user(folder, ftkeras):
    Path("tickets.csv").write_text("\n".join(["message,topic", *(f"{t},x" for t in TICKETS)]))
    assert ftkeras("init", "my.yaml", "--data=tickets.csv", "--backbone=ResNet50").status == 0
    done = ftkeras("plan", "--config=my.yaml", "--set=backbone.weights=none")
    assert done.status == 2 and "data.input={kind: text, column: NAME}" in done.err
    assert "backbone.name=" not in done.err
    assert done.err.count("hf://") == 1


def test_init_aligns_pictures_with_words(folder, ftkeras, prepare):
    """The config can be planned as it is; only the backbone is another, which needs no download."""
    prepare(folder)
    rows = [f"photos/cat/{i}.png,a cat on mat {i};cat,{'ab'[i % 2]}" for i in range(20)]
    Path("pairs.csv").write_text("\n".join(["photo,caption,mood", *rows]))
    done = ftkeras("init", "my.yaml", "--data=pairs.csv")
    assert done.status == 0 and "'photo' (data.image_column)" in done.out, done.err
    assert "'caption' (alignment.texts)" in done.out
    assert "--task=classification" in done.out
    config = load_config("my.yaml")
    assert (config.task, config.data.image_column) == ("alignment", "photo")
    assert config.alignment.texts == ["caption"] and config.alignment.separator == ";"
    assert config.alignment.classes.column == "mood" and config.data.batch_size == 8
    assert config.alignment.backbone.weights == "starter"
    text = Path("my.yaml").read_text()
    assert "  # The columns of the manifest with texts of a picture" in text
    plan = ftkeras("plan", "--config=my.yaml", "--set=backbone={name: tiny.keras}",
                   "--set=data.input.size=16")  # fmt: skip
    assert plan.status == 0 and "projections  head" in plan.out, plan.err


@pytest.mark.parametrize(
    ("flags", "task", "label", "told"),
    [
        ([], "classification", "category", "words about the pictures are in 'caption'"),
        (["--task=alignment"], "alignment", "label", "(alignment.classes)"),
        (["--task=classification"], "classification", "category", "column 'category'"),
        (["--backbone=ResNet50"], "classification", "category", "column 'file'"),
    ],
)
def test_a_named_label_or_a_flag_decides_the_task(folder, ftkeras, flags, task, label, told):
    rows = [f"{i}.png,a cat on mat {i},{'ab'[i % 2]}" for i in range(20)]
    Path("list.csv").write_text("\n".join(["file,caption,category", *rows]))
    done = ftkeras("init", "my.yaml", "--data=list.csv", *flags)
    assert done.status == 0 and told in done.out, done.err
    config = load_config("my.yaml")
    assert (config.task, config.data.image_column) == (task, "file")
    assert config.data.label_column == label


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["my.yaml", "--data=texts.csv", "--task=alignment"], "no column of texts.csv names files"),
        (["my.yaml", "--data=files.csv", "--task=alignment"], "no column of texts beside 'path'"),
        (["my.yaml", "--task=alignment"], "--task=alignment needs --data=TABLE"),
        (["texts.csv"], "If it is your data: ftkeras init my.yaml --data=texts.csv"),
    ],
)
def test_init_says_what_an_alignment_needs(folder, ftkeras, words, told):
    Path("texts.csv").write_text("review,stars\nso very dull,1\na fine film,2\n")
    Path("files.csv").write_text("path\na.png\n")
    done = ftkeras("init", *words)
    assert done.status == 2 and told in done.err
