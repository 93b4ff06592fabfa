"""Whole runs of pictures and texts: trained, measured, searched, exported; and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import ftkeras
from ftkeras.cli.main import main
from ftkeras.config.load import load_config
from ftkeras.errors import TrainingError, UserError
from ftkeras.phases import weights_of
from ftkeras.run import Run
from ftkeras.runs import finished
from ftkeras.runs.assemble import assemble
from ftkeras.starter import archive_path
from ftkeras.tasks.alignment.doctor import examine
from ftkeras.tasks.alignment.pairs import PairFeed, PairSplit
from ftkeras.tasks.alignment.search import Index, Searcher
from ftkeras.tasks.alignment.task import TASK, Alignment

from .conftest import config, draw

ROOT = Path(__file__).resolve().parents[3]


def test_a_run_finds_pictures_by_their_texts(trained):
    evaluation = trained.read_json("evaluation.json")
    assert evaluation["split"] == "val" and (evaluation["examples"], evaluation["texts"]) == (
        24,
        24,
    )
    assert evaluation["recall_at_5"] >= 0.6
    assert evaluation["zero_shot_accuracy"] >= 0.5 and evaluation["zero_shot_classes"] == 4
    for name, (low, high) in evaluation["intervals"].items():
        assert low <= evaluation[name] <= high
    ridge = evaluation["ridge"]
    difference = evaluation["recall_at_5"] - ridge["recall_at_5"]
    assert ridge["recall_at_5_difference"] == pytest.approx(difference)
    plan = trained.read_json("plan.json")
    assert [row["stored"] for row in plan["trunk"]] == [True, True]
    assert all(not verdict["drifted"] for verdict in plan["audit"].values())
    assert trained.read_json("floor.json")["metric"] == "mean average precision"
    again = finished.evaluate(trained)  # of the split that there is
    assert again["map"] == pytest.approx(evaluation["map"], abs=1e-6)
    TASK.check_bars(ftkeras.evaluation.bars.parse_bars(["recall_at_5>=0.1"]), {})
    with pytest.raises(UserError, match="no metric 'accuracy' is measured"):
        TASK.check_bars(ftkeras.evaluation.bars.parse_bars(["accuracy>=0.1"]), {})


def test_its_report_shows_what_is_found_and_missed(trained):
    page = trained.read_text("report.html")
    assert "without outputs" not in page and "Under each number" not in page
    assert not re.search(r"\d{3}\.\d%", page.replace("100.0%", ""))  # ranks are no shares
    for text in ("Retrieval", "Worst misses", "a red square", "ridge regression"):
        assert text in page
    shown = trained.read_json("task.json")
    assert all(
        hit["drawn"].startswith("data:image/") for q in shown["queries"] for hit in q["hits"]
    )


def test_stored_towers_train_as_whole_ones(trained, shapes, tmp_path):
    assert [row["stored"] for row in trained.read_json("plan.json")["trunk"]] == [True, True]
    whole = ftkeras.train(config(shapes, "trunk.mode=off"), str(tmp_path / "whole"))
    for one, two in zip(
        finished.load_model(trained).get_weights(),
        finished.load_model(whole).get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-2, atol=1e-3)


def test_a_locked_tower_is_stored_while_pictures_are_augmented(shapes, capsys):
    """It is stored once for both phases, whatever the other tower does."""
    given = config(
        shapes, "data.input.augmentation=light", 'phases[0].train=["head","images/all"]',
        'phases[1].train=["head","images/norm"]',
    )  # fmt: skip
    assembled = assemble(given)
    assert [forecast.stored for forecast in assembled.trunk.forecasts] == [True, True]
    feed, split = assembled.feed, assembled.trunk.splits[0]
    assert isinstance(feed, PairFeed)
    from ftkeras.data.share import WHOLE
    from ftkeras.training.segments import _stored, stores_of

    stores = stores_of(assembled.model, feed, assembled.unfreeze, assembled.trunk, 0)
    assert list(stores["train"].stores) == ["texts"]
    train, _ = _stored(stores, feed, WHOLE)
    [frontier], [whole] = ([b[0] for b in d.take(1)] for d in (train, feed.train()))
    tail = assembled.trunk.make_tail(split.tail.graph)
    np.testing.assert_allclose(
        tail(frontier, training=False), assembled.model(whole, training=False), atol=1e-5
    )


class Kill(keras.callbacks.Callback):
    """Breaks off in the middle of an epoch of the second phase."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.optimizer.iterations == 11:
            raise RuntimeError("killed")


def test_a_run_that_was_killed_ends_with_the_same_weights(trained, shapes, tmp_path, monkeypatch):
    given = config(shapes, "training.checkpoint.every_steps=2")
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="killed"):
        patch.setattr(Alignment, "callbacks", lambda *args: [Kill()])
        ftkeras.train(given, str(tmp_path / "parts"))
    resumed = ftkeras.train(None, str(tmp_path / "parts"))
    assert "resumed" in resumed.read_text("events.jsonl")
    for one, two in zip(
        finished.load_model(trained).get_weights(),
        finished.load_model(resumed).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(two, one)
    table = (shapes / "shapes.csv").read_text()
    (tmp_path / "moved").mkdir()
    for file in shapes.glob("*.png"):
        shutil.copy(file, tmp_path / "moved")
    (tmp_path / "moved" / "shapes.csv").write_text(table.replace("a pink bar", "a rose bar"))
    run = Run(resumed.folder)
    run.set_state("interrupted")
    with pytest.raises(UserError, match="began with other examples"):
        ftkeras.train(
            Run.open(run.folder, [f"data.path={tmp_path / 'moved' / 'shapes.csv'}"]).config,
            run.folder,
        )


def test_adapters_and_norms_of_either_tower_train_alike_on_two_replicas(
    shapes, tmp_path, two_replicas
):
    """What both towers' adapters do, trained on one device and on two; the weights under them stay.

    An embedding and a projection are all that a recurrent tower may adapt.
    """
    changes = (
        "lora={rank: 2, targets: all}", "training.end=trained", "phases[0].epochs=1",
        'phases[0].train=["head","images/lora"]', "phases[1].epochs=1",
        'phases[1].train=["texts/lora","images/norm"]',
    )  # fmt: skip
    runs = [
        ftkeras.train(config(shapes, *changes, f"training.strategy={name}"), str(tmp_path / name))
        for name in ("cpu", "mirrored")
    ]
    one, two = (finished.load_model(run) for run in runs)
    for expected, found in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    audit = runs[1].read_json("plan.json")["audit"]
    assert [audit[name]["drifted"] for name in ("projections", "both")] == [[], []]
    assert [audit[name]["trained"] for name in ("projections", "both")] == [5 + 4, 2 + 2]
    start = keras.saving.load_model(shapes / "tiny.keras")
    tuned = one.get_layer("images").get_layer("tiny")
    for name in ("one", "two"):
        kernels = [model.get_layer(name).kernel.numpy() for model in (start, tuned)]
        delta = (kernels[1] - kernels[0]).reshape(-1, kernels[0].shape[-1])
        assert np.linalg.matrix_rank(delta, tol=1e-6) == 2
    tower = keras.saving.load_model(runs[0].path("tower.keras"))  # plain layers, adapters within
    np.testing.assert_array_equal(tower.get_layer("tiny").get_layer("two").kernel, kernels[1])


# ------------------------------------------------------------------------- the data


def test_lines_lists_and_cells_are_texts(tmp_path):
    draw("red", "bar").save(tmp_path / "a.png")
    draw("blue", "bar").save(tmp_path / "b.png")
    draw("pink", "bar").save(tmp_path / "c.png")
    draw("pink", "cross").save(tmp_path / "d.png")
    rows = [
        {"path": "a.png", "text": "first, one; two", "split": "train"},
        {"path": "a.png", "text": "second", "split": "train"},
        {"path": "b.png", "text": ["third", "second", " ", "third"], "split": "train"},
        {"path": "c.png", "text": "\0", "split": "train"},
        {"path": "d.png", "text": "", "split": "val"},
    ]
    table = tmp_path / "shapes.csv"
    table.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = config(
        tmp_path, f"data.path={tmp_path}/shapes.jsonl", "alignment.texts=[text]",
        "alignment.classes=null", "data.max_bad_files=0.6", "alignment.separator=null",
    )  # fmt: skip
    data = TASK.data(given)
    train = data.splits["train"]
    assert isinstance(train, PairSplit) and list(data.splits) == ["train"]
    texts = [train.texts.fetch(tf.constant(i)).numpy().decode() for i in range(len(train.texts))]
    assert texts == ["first, one; two", "second", "third", "second"]
    assert train.numbers.tolist() == [0, 1, 2, 1] and train.owners.tolist() == [0, 0, 1, 1]
    assert sorted(bad.path for bad in data.bad_files) == ["c.png", "d.png"]
    assert data.notes[-1].startswith(
        "4 texts of 2 pictures, 3 of them different; a text that several"
    )
    one = [{**row, "text": str(i)} for i, row in enumerate(rows[1:4])]  # as most tables are
    table.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, one)))
    assert not any("texts of" in note for note in TASK.data(given).notes)
    table.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="2 of 4 images have no text that can be used"):
        TASK.data(
            given.model_copy(update={"data": given.data.model_copy(update={"max_bad_files": 0.1})})
        )
    for row in rows:
        row["text"] = " "
    table.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        UserError, match="none of 4 images has a text .* alignment.texts names"
    ) as e:
        TASK.data(given)
    assert "limit" not in str(e.value)
    with pytest.raises(UserError, match="alignment.texts: the table has no column 'txet'"):
        TASK.data(
            given.model_copy(
                update={"alignment": given.alignment.model_copy(update={"texts": ["txet"]})}
            )
        )


def test_the_doctor_sees_pairs_that_repeat_and_texts_that_tell_nothing(shapes):
    [shared] = examine(TASK.data(config(shapes)))  # training has each of them twice
    assert "24 of 24 texts of train" in shared.message
    by_tags = TASK.data(config(shapes, "alignment.texts=[shape]", "alignment.classes=null"))
    assert any("4 of 4 texts of val" in finding.message for finding in examine(by_tags))
    data = TASK.data(config(shapes))
    train = data.splits["train"]
    assert isinstance(train, PairSplit)
    same = dataclasses.replace(
        train,
        numbers=np.zeros_like(train.numbers),
        fetch=lambda index: train.fetch(tf.zeros_like(index)),
    )
    found = list(examine(dataclasses.replace(data, splits={"train": same})))
    assert [f.check for f in found] == ["one text", "one picture", "repeated pairs", "shared texts"]
    assert [f.severity for f in found[:2]] == ["error", "error"]


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("outputs={age: number}", "^outputs: task alignment does not take it"),
        ("alignment.classes={column: shap}", "^alignment.classes.column: .*Did you mean 'shape'"),
        ("alignment.classes={column: tags}", "besides pictures and texts the table has no column"),
        ("loss.label_smoothing=0.1", "^loss: .*alignment.loss names"),
        ("data.balance=sampling", "^data.balance: "),
        ("data.input.mix.mixup=0.2", "^data.input.mix: "),
        ("alignment.input={variation: {drop: 0.1}}", "^alignment.input.variation: "),
        ("alignment.input={column: name}", "^alignment.input.column: "),
        ("alignment.backbone.adapt={epochs: 1}", "^alignment.backbone.adapt: "),
        ("trunk.views=2", "^trunk.views: "),
        ("export.formats=[onnx]", "^export.formats: "),
        ("training.monitor=val_accuracy", "no metric 'val_accuracy' is logged"),
        ('phases[0].train=["image/all"]', "selector 'image/all' is not understood"),
        ("data={source: folder, path: .}", "task alignment reads a table"),
        ("data.image_column=file", "no column 'file'.*data.image_column names another. It holds "
         "the path of each file.$"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_training(shapes, override, match):
    with pytest.raises(UserError, match=match):
        assemble(config(shapes, override))


def test_several_workers_are_refused(shapes):
    from ftkeras.data.share import Share

    given = config(shapes)
    assembled = assemble(given)
    with pytest.raises(UserError, match="does not train on several workers yet"):
        TASK.feed(given, assembled.data, assembled.model, Share(0, 2, 2))


def test_rows_that_cannot_be_read_are_left_out_by_name(shapes, tmp_path):
    for name in ("red-bar-0.png", "red-bar-1.png", "red-bar-2.png"):
        shutil.copy(shapes / name, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    rows = [
        ("red-bar-0.png", "a red bar", "train"),
        ("broken.png", "a broken one", "train"),
        ("red-bar-1.png", "  ", "train"),
        ("red-bar-2.png", "another bar", "val"),
    ]
    table = tmp_path / "shapes.csv"
    text = "path,name,split\n" + "\n".join(map(",".join, rows)) + "\n"
    table.write_text(text)
    given = config(
        shapes, f"data.path={table}", "alignment.texts=[name]", "alignment.classes=null",
        "data.max_bad_files=0.6",
    )  # fmt: skip
    data = TASK.data(given)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1, "val": 1}
    assert sorted(bad.path.rpartition("/")[2] for bad in data.bad_files) == [
        "broken.png",
        "red-bar-1.png",
    ]
    table.write_text(text + "nowhere.png,a bar,train\n")
    assert any(bad.path.endswith("nowhere.png") for bad in TASK.data(given).bad_files)
    table.write_text(text + ",a bar,train\n")
    with pytest.raises(UserError, match="path"):
        TASK.data(given)
    table.write_text(text.replace("path,", "file,"))
    with pytest.raises(UserError, match="path"):
        TASK.data(given)
    table.write_text("path,name,split\n")
    with pytest.raises(UserError, match="shapes.csv"):
        TASK.data(given)


# ------------------------------------------------------------------------- verbs


def test_words_that_were_never_labels_classify(trained, shapes, capsys, tmp_path):
    out = tmp_path / "said.jsonl"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no more")
    files = [str(shapes / "red-bar-2.png"), str(broken)]
    labels = "--labels=a red bar,a black circle"
    status = main(["predict", trained.folder, *files, labels, f"--out={out}"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert status == 0 and rows[0]["predictions"][0]["class"] == "a red bar"
    assert sum(each["score"] for each in rows[0]["predictions"]) == pytest.approx(1, abs=1e-5)
    assert "error" in rows[1]
    [row] = ftkeras.load_run(trained.folder).predict(files[:1], labels=["a red bar", "blue"])
    assert row.best[0][0] == "a red bar"
    assert main(["predict", trained.folder, *files, "--labels=red, a xyzzy bar!"]) == 0
    assert "the model does not know 'xyzzy': such" in capsys.readouterr().err
    assert main(["predict", trained.folder, *files, "--labels=red,Xyzzy?"]) == 2
    assert "--labels: the model knows no word of 'Xyzzy?'" in capsys.readouterr().err
    for labels in ("", "one", "one,one", "one, "):
        assert main(["predict", trained.folder, *files, f"--labels={labels}"]) == 2
    assert "name two classes or more" in capsys.readouterr().err


def test_search_ranks_a_folder_and_reads_only_what_changed(
    trained, shapes, tmp_path, cache, capsys, monkeypatch
):
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in sorted(shapes.glob("*-2.png")):
        shutil.copy(file, folder)
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    assert main(["search", trained.folder, "a blue cross", str(folder), "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)  # all of it: notes go elsewhere
    assert "1 file left out" in told.err
    assert "1 of 26 files is left out, such as notes.txt" in told.err
    assert len(found) == 10 and all(not f["file"].endswith(("txt", "broken.png")) for f in found)
    assert any("blue" in f["file"] for f in found[:3])
    scores = [f["score"] for f in found]
    assert scores == sorted(scores, reverse=True)

    searcher, read = Searcher(Run.open(trained.folder)), []
    own = Searcher._encode
    monkeypatch.setattr(
        Searcher,
        "_encode",
        lambda self, i, places: (read.append(len(places)), own(self, i, places)),
    )
    shutil.move(folder / "red-bar-2.png", folder / "moved.png")  # the same content
    draw("yellow", "square", 9).save(folder / "red-circle-2.png")  # another content
    index = searcher.index([str(folder)])
    assert read == [1] and str(folder / "moved.png") in index.files
    assert searcher.index([str(folder)]).files == index.files and read == [1]
    query = searcher.encode("a yellow square")
    fresh = {file: vector for file, vector in zip(index.files, index.vectors, strict=True)}
    [best] = index.best(query, 1)
    everything = {f: float(v @ query) for f, v in fresh.items()}
    assert best[1] == pytest.approx(max(everything.values()))


def test_search_refuses_what_it_cannot_do(trained, shapes, tmp_path, cache, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "broken.png").write_bytes(b"\x89PNG no more")
    other = tmp_path / "other"
    shutil.copytree(trained.folder, other)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("task: alignment", "task: classification"))
    for arguments, match in (
        ([trained.folder, "a red bar"], "expected a run folder, a text"),
        ([trained.folder, "", str(shapes)], "cannot be used"),
        ([trained.folder, "xyzzy", str(shapes)], "search: the model knows no word of 'xyzzy'"),
        ([trained.folder, "red", str(tmp_path / "nowhere")], "search: there is no file or folder"),
        ([trained.folder, "red", str(broken)], "none of 1 file can be read"),
        ([trained.folder, "red", str(broken)], "none of 1 file can be read"),  # from the index
        ([str(tmp_path), "red", str(shapes)], ""),
    ):
        assert main(["search", *arguments]) == 2
        assert match in capsys.readouterr().err
    assert main(["extend", trained.folder, f"--data={shapes}", f"--out={tmp_path}/x"]) == 2
    assert "is a run of the task alignment; only runs of the tasks" in capsys.readouterr().err


def test_an_index_is_whole_or_none(tmp_path):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(1000, 8)).astype(np.float32)
    vectors[3] = 0  # a file that is no picture
    stamps = np.arange(2000).reshape(1000, 2)
    index = Index([f"{i}.png" for i in range(1000)], stamps, ["c"] * 1000, vectors)
    path = str(tmp_path / "index.npz")
    index.save(path)
    again, query = Index.load(path), vectors[7]
    order = np.argsort(-(vectors @ query), kind="stable")
    expected = [f"{i}.png" for i in order if i != 3][:20]
    assert [file for file, _ in again.best(query, 20)] == expected
    assert len(again.best(query, 5000)) == 999
    Path(path).write_bytes(Path(path).read_bytes()[:200])
    assert Index.load(path).files == [] == Index.load(str(tmp_path / "none.npz")).files


# ------------------------------------------------------------------------- serving


def test_one_saved_model_encodes_and_classifies(trained, shapes):
    certificate = trained.read_json("certificate.json")["saved_model"]
    differences = certificate["saved_model"]["max_difference"]
    assert set(differences) == {"encode_image", "encode_text", "classify"}
    assert max(differences.values()) <= certificate["saved_model"]["tolerance"]
    served = tf.saved_model.load(trained.path("export", "1"))
    files = [str(shapes / f"{name}-2.png") for name in ("red-bar", "black-circle")]
    raw = tf.constant([*(Path(file).read_bytes() for file in files), b"no picture"])
    labels = ["a red bar", "a black circle", "\xff".encode("latin-1"), "green"]
    said = served.signatures["classify"](image_bytes=raw, labels=tf.constant(labels))
    scores = said["scores"].numpy()
    rows = finished.load_run(trained.folder).predict(
        files, top_k=3, labels=["a red bar", "a black circle", "green"]
    )
    for row, own in zip(rows, scores, strict=False):
        expected = dict(row.best)
        for label, score in zip(labels, own, strict=True):
            assert score == pytest.approx(expected.get(label, 0.0), abs=1e-4)
    assert not scores[2].any() and said["error"].numpy()[2] and not said["error"].numpy()[0]
    texts = served.signatures["encode_text"](text=tf.constant(["a red bar", ""]))
    assert np.linalg.norm(texts["embedding"].numpy(), axis=1).tolist() == pytest.approx([1, 0])
    serving = Path(trained.path("export", "serving"))
    assert "--enable_batching" not in (serving / "serve.sh").read_text()
    assert 'TEXT = ("encode_text", "text")' in (serving / "rest_client.py").read_text()


def test_the_picture_tower_is_a_backbone_for_another_run(trained, shapes, tmp_path):
    tower = Path(trained.path("tower.keras"))
    assert tower.exists()
    rows = [(p.name, p.name.split("-")[1]) for p in sorted(shapes.glob("*.png"))]
    table = shapes / "kinds.csv"
    table.write_text("path,label\n" + "\n".join(",".join(row) for row in rows))
    tree = {
        "data": {"source": "manifest", "path": str(table), "input": {"size": 16}},
        "backbone": {"name": trained.folder},
        "phases": [{"name": "head", "train": ["head"], "epochs": 1, "learning_rate": 0.01}],
        "export": {"saved_model": False},
        "report": False,
    }
    assembled = assemble(ftkeras.config.load.parse_config(tree, []))
    weights = weights_of(assembled.model, assembled.backbone.blocks).all
    assert {"one", "norm", "two", "logits"} <= {weight.path.split("/")[-2] for weight in weights}
    kernel = next(weight for weight in weights if weight.path.endswith("two/kernel"))
    model = finished.load_model(trained)
    own = next(v for v in model.get_layer("images").variables if v.path.endswith("two/kernel"))
    np.testing.assert_array_equal(kernel.variable.numpy(), own.numpy())


# ------------------------------------------------------------------------- what ships


def test_the_starters_concepts_are_on_one_side():
    given = load_config(str(ROOT / "configs" / "alignment.yaml"), [])
    data = TASK.data(given)
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sum(sizes.values()) == 652 and sizes["test"] >= 100
    concepts = [set(split.columns["concept"]) for split in data.splits.values()]
    for i, one in enumerate(concepts):
        assert not any(one & other for other in concepts[i + 1 :])
    with zipfile.ZipFile(archive_path("emoji.zip")) as archive:
        assert sum(info.file_size for info in archive.infolist()) < 2_000_000
        names = [n for n in archive.namelist() if n.endswith(".png")]
        with archive.open(names[0]) as file:
            assert Image.open(file).size == (64, 64)


def test_variants_are_one_concept():
    code = (
        "import make_emoji_starter as m\n"
        "assert m.concept_of('1F6A3-200D-2642-FE0F') == m.concept_of('1F6A3')\n"
        "assert m.concept_of('1F468-200D-2695-FE0F') == m.concept_of('1F469-200D-2695-FE0F')\n"
        "assert m.concept_of('1F1EB-1F1F7') != m.concept_of('1F1E9-1F1EA')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", check=True)
