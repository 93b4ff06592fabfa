"""Kinds of input from outside of the package: the one of the manual, and texts of any length."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.backbones.blocks import layer_blocks
from ftkeras.config.load import dump_config, parse_config, parse_text
from ftkeras.data.dataset import Data, Split
from ftkeras.data.feed import Feed
from ftkeras.data.load import load_data
from ftkeras.data.paired import PairedFeed
from ftkeras.data.pipeline import Examples, batches, plain
from ftkeras.data.share import Share
from ftkeras.doctor.examine import examine
from ftkeras.errors import UserError
from ftkeras.evaluation.comparison import compare_runs, format_comparison
from ftkeras.evaluation.predict import expand_inputs
from ftkeras.export import export_saved_model
from ftkeras.export.classifier import Served
from ftkeras.export.questions import questions_of
from ftkeras.export.run import export_run
from ftkeras.inputs import registry
from ftkeras.inputs.base import PLAIN, Input
from ftkeras.inputs.registry import make_input, register_input
from ftkeras.model.assemble import build_model
from ftkeras.outputs.one_of import OneOf
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.finished import evaluate, load_model, predict, robustness
from ftkeras.runs.task import Task, task_of
from ftkeras.runs.train import train
from ftkeras.tasks.incremental.extend import extend
from ftkeras.trunk.key import stamp_examples

COUNT = 12


@pytest.fixture(scope="module")
def points() -> Input:
    """What the example of the manual registers."""
    page = Path(__file__).parents[2] / "docs" / "inputs.md"
    [example] = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(compile(example, str(page), "exec"), {})
    return make_input("points")


@pytest.fixture(scope="module")
def clouds(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("clouds") / "clouds.npz"
    arrays = np.random.default_rng(0).normal(size=(COUNT, 8, 2))
    np.savez(path, clouds=arrays, labels=np.arange(COUNT) % 2)
    return str(path)


class Words(Input):
    """Texts as the numbers of their words."""

    kind, noun, raw = "words", "text", tf.TensorSpec((), tf.string)
    pad = {"token_ids": -1}

    @property
    def takes(self) -> dict[str, tf.TensorSpec]:
        return {
            "token_ids": tf.TensorSpec((None,), tf.int32),
            "padding_mask": tf.TensorSpec((None,), tf.bool),
        }

    def recipe(self, view: str = "none") -> str:
        return "words"

    def decode(self, raw: tf.Tensor, view: Any) -> dict[str, tf.Tensor]:
        ids = tf.strings.to_number(tf.strings.split(raw), tf.int32)
        return {"token_ids": ids, "padding_mask": ids > -1}

    def prepare(self, kept: Any, view: Any, key: tf.Tensor) -> Any:
        return kept


@pytest.fixture(scope="module")
def texts() -> Split:
    raw = tf.constant([" ".join(map(str, range(i + 1))) for i in range(COUNT)])
    labels = np.arange(COUNT, dtype=np.int32) % 2
    return Split("train", [str(i) for i in range(COUNT)], labels, 2, lambda index: raw[index])


def test_a_kind_of_the_manual_trains_from_files_to_batches(points, clouds):
    data = load_data("arrays", path=clouds, kind=points, split={"val": 0.25, "test": None})
    feed = Feed(data, points, batch_size=4, seed=3, view=points.training_view, cache="memory")
    assert feed.steps_per_epoch == 3 and not feed.is_plain
    train, split = list(feed.train()), data.splits["train"]
    raw = np.stack([split.fetch(tf.constant(i)) for i in range(len(split))])
    lengths = np.linalg.norm(raw, axis=-1)
    for number, (found, labels) in enumerate(train):
        indices = feed.indices(0, number)
        assert labels.numpy().argmax(1).tolist() == split.labels[indices].tolist()
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), lengths[indices], rtol=1e-4)
        assert np.abs(found - raw[indices]).max() > 0.1  # turned
    again = dataset_of(Feed(data, points, 4, seed=3, view="turned", cache="none").train())
    np.testing.assert_array_equal(dataset_of(train), again)
    np.testing.assert_allclose(dataset_of(feed.plain("train")), raw, rtol=1e-6)
    views, recipe = feed.views(2, None)
    assert len(dataset_of(views)) == 2 * len(split) and "turned" in recipe
    assert stamp_examples(split) != stamp_examples(data.splits["val"])


def dataset_of(data: Any) -> np.ndarray:
    return np.concatenate([batch[0] for batch in data])


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_inputs_by_name_are_padded_to_the_longest_of_a_batch(texts, cache):
    read = Examples(texts, Words(), cache=cache)
    found = list(batches(texts, read, 5).as_numpy_iterator())
    assert [part["token_ids"].shape for part, _ in found] == [(5, 5), (5, 10), (2, 12)]
    for number, (part, labels) in enumerate(found):
        for row, (ids, mask) in enumerate(
            zip(part["token_ids"], part["padding_mask"], strict=True)
        ):
            length = 5 * number + row + 1
            assert ids.tolist() == [*range(length), *[-1] * (len(ids) - length)]
            assert mask.tolist() == [True] * length + [False] * (len(ids) - length)
        assert labels.shape == (len(mask := part["padding_mask"]), 2) and mask.dtype == bool


def test_inputs_by_name_of_two_domains_are_not_paired(texts):
    outputs = {"label": OneOf(("a", "b"))}
    data = Data("texts", outputs, {"train": texts, "target_train": texts})
    with pytest.raises(UserError, match="texts cannot be paired"):
        PairedFeed(data, Words(), 4)


def test_several_replicas_share_inputs_by_name(texts):
    parts = [
        list(batches(texts, Examples(texts, Words()), 5, share=Share(i, 2, 2))) for i in range(2)
    ]
    lengths = [
        [int(n) for inputs, _, rows in part for n in inputs["padding_mask"].numpy().sum(1)]
        for part in parts
    ]
    assert lengths == [[1, 2, 3, 6, 7, 8, 11], [4, 5, 1, 9, 10, 6, 12]]  # 1 and 6 are padding


def test_a_config_names_a_kind_and_its_settings(points, clouds):
    tree = {
        "data": {"source": "arrays", "path": clouds, "input": {"kind": "points"}},
        "backbone": {"name": "MobileNetV2", "weights": "none"},
        "phases": [{"name": "head", "epochs": 1, "learning_rate": 1e-3}],
    }
    data = build.data(parse_config(tree))
    assert sum(map(len, data.splits.values())) == COUNT
    feed = build.feed(parse_config(tree), data, model=None)
    assert feed.input.kind == "points" and feed.view == "turned"
    wrong = {
        "data.input.kind=pints": "no kind 'pints'. Did you mean 'points'",
        "data.input.size=3": "data.input: .*arguments",
    }
    for override, message in wrong.items():
        with pytest.raises(UserError, match=message):
            build.data(parse_config(tree, [override]))
    with pytest.raises(UserError, match="has a kind 'image' already"):
        register_input("image", lambda settings, model: points)


class _Settings(pydantic.BaseModel, extra="forbid"):
    """What a config may say of a kind from outside."""

    columns: int = 2
    turned: bool = False


def test_a_section_of_a_kind_checks_what_a_config_says_of_it(points, clouds, monkeypatch):
    found: list[Mapping[str, Any]] = []
    monkeypatch.setattr(registry, "_REGISTERED", {})
    register_input("rows", lambda settings, model: found.append(settings) or points, _Settings)
    tree = {
        "data": {"source": "arrays", "path": clouds, "input": {"kind": "rows", "turned": True}},
        "backbone": {"name": "MobileNetV2", "weights": "none"},
        "phases": [{"name": "head", "epochs": 1, "learning_rate": 1e-3}],
    }
    config = parse_config(tree)
    build.input_of(config)
    assert found == [{"columns": 2, "turned": True}]
    assert parse_text(dump_config(config)) == config
    for override, message in {
        "data.input.colums=3": r"data\.input\.colums: no such field\. Did you mean 'columns'",
        "data.input.size=96": r"data\.input\.size: no such field",
        "data.input.columns=two": r"data\.input\.columns: expected a valid integer",
    }.items():
        with pytest.raises(UserError, match=message):
            parse_config(tree, [override])


def test_what_a_kind_cannot_do_is_refused_by_name(points):
    assert points.ability("show") is None
    with pytest.raises(UserError, match="robustness: clouds have no 'corruptions'"):
        points.able("corruptions", "robustness")
    assert make_input().able("corruptions", "robustness").SMALLEST == 32


def test_messages_speak_of_the_kind(points, clouds, tmp_path):
    one = tmp_path / "one.npz"
    np.savez(one, clouds=np.zeros((3, 8, 2)), labels=np.zeros(3, int))
    with pytest.raises(UserError, match="all clouds have one label"):
        load_data("arrays", path=str(one), kind=points)
    data = load_data("arrays", path=clouds, kind=points)
    with pytest.raises(UserError, match="64 is more than the clouds of train"):
        Feed(data, points, 64, full=True)
    (batch, _), *_ = plain(data.splits["train"], points, 2)
    assert batch.shape == (2, 8, 2) and PLAIN.names == ("none",)


@pytest.fixture(scope="module")
def tree(clouds, tmp_path_factory) -> dict[str, Any]:
    """A config of two phases with a stored trunk."""
    inputs = keras.Input((8, 2), name="points")
    hidden = keras.layers.Dense(8, "relu", name="first")(inputs)
    backbone = keras.Model(inputs, keras.layers.Dense(8, "relu", name="second")(hidden))
    path = str(tmp_path_factory.mktemp("net") / "net.keras")
    backbone.save(path)
    return {
        "data": {"source": "arrays", "path": clouds, "input": {"kind": "points"}, "batch_size": 4},
        "backbone": {"name": path},
        "phases": [
            {"name": "head", "epochs": 1, "learning_rate": 1e-2},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2, "learning_rate": 1e-3},
        ],
        "trunk": {"mode": "on", "views": 2},
    }


@pytest.fixture(scope="module")
def run(points, tree, tmp_path_factory) -> Run:
    """A finished run of that."""
    return train(parse_config(tree), str(tmp_path_factory.mktemp("runs") / "run"))


def test_a_run_of_another_kind_trains_from_a_store_and_is_measured(run, tree):
    assert [row["stored"] for row in run.read_json("plan.json")["trunk"]] == [True, True]
    assert evaluate(run, "val")["examples"] == 2
    assert Path(run.path("report.html")).is_file()
    with pytest.raises(UserError, match="robustness: clouds have no 'corruptions'"):
        robustness(run, 4)
    findings = examine(parse_config(tree)).findings
    assert not [f for f in findings if f.severity == "error"]


def test_what_people_read_of_a_run_speaks_of_its_kind(run):
    page = Path(run.path("report.html")).read_text()
    words = re.sub(r"(?s)<(style|pre)\b.*?</\1>|<[^>]*>", " ", page)
    assert "test clouds" in words and "image" not in words.replace("imagenet", "").lower()
    assert not re.search("(?i)picture|pixel", words)
    assert Task().format_results(evaluate(run, "val")).startswith("2 clouds\n")
    again = compare_runs(run, run)
    assert "clouds of test that both were measured on" in format_comparison(again)


@pytest.mark.parametrize(
    ("task", "lacking"),
    [
        ("adversarial", "task adversarial: clouds have no 'levels'"),
        ("robust_weights", "robust_weights.corruptions: clouds have no 'corruptions'"),
    ],
)
def test_tasks_about_values_refuse_another_kind_before_training(points, tree, task, lacking):
    named = ["robust_weights.corruptions=[fog]"] if task == "robust_weights" else []
    config = parse_config({**tree, "task": task}, named)
    with pytest.raises(UserError, match=lacking):
        task_of(config).check(config, build.data(config))


def test_a_run_of_another_kind_is_not_extended(run, clouds, tmp_path):
    with pytest.raises(UserError, match="task incremental: clouds have no 'levels'"):
        extend(run, {"source": "arrays", "path": clouds}, str(tmp_path / "more"))
    assert not (tmp_path / "more" / "model.keras").exists()


class _Killed(keras.callbacks.Callback):
    """Ends training after an epoch as Ctrl-C does."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise KeyboardInterrupt


def test_a_run_of_another_kind_that_was_stopped_resumes_to_the_bit(
    run, tree, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Task, "callbacks", lambda self, assembled: [_Killed()])
        train(parse_config(tree), str(tmp_path / "run"))
    resumed = train(parse_config(tree), str(tmp_path / "run"))
    pairs = zip(load_model(run).weights, load_model(resumed).weights, strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_a_run_of_another_kind_predicts_and_its_export_answers_as_it_does(run, clouds, tmp_path):
    arrays = np.load(clouds)["clouds"].astype(np.float32)
    for i, array in enumerate(arrays[:3]):
        np.save(tmp_path / f"{i}.npy", array)
    np.save(tmp_path / "wrong.npy", arrays[0, :3])
    whole = (tmp_path / "0.npy").read_bytes()
    vast = tmp_path / "x_vast.npy"  # a header that claims 64 GB
    vast.write_bytes(whole.replace(b"(8, 2), }" + b" " * 20, b"(8000000000, 2), }" + b" " * 11, 1))
    files = expand_inputs([str(tmp_path), clouds], make_input("points"))
    rows = list(predict(run, files))
    assert [bool(row.error) for row in rows] == [False] * 3 + [True] * 3
    assert "an array (3, 2), and a cloud is (8, 2)" in rows[3].error
    assert "damaged" in rows[4].error
    assert "read from a .npy file" in rows[5].error
    exported = run.read_json("certificate.json")["saved_model"]
    assert set(exported["saved_model"]["max_difference"]) >= {"serving_default", "inputs"}
    assert max(exported["saved_model"]["max_difference"].values()) < 1e-4
    signatures = tf.saved_model.load(exported["path"]).signatures
    served = signatures["serving_default"](cloud=tf.constant(arrays[:3]))
    assert set(signatures) >= {"serving_default", "examples", "inputs"}
    assert served["scores"].numpy()[:, 0] == pytest.approx([row.best[0][1] for row in rows[:3]])
    assert served["error"].numpy().tolist() == [b""] * 3


def test_a_kind_of_texts_without_golden_examples_is_refused_before_it_trains(texts):
    with pytest.raises(UserError, match="export: ftkeras has no texts to prove an export with"):
        questions_of(Words())


def test_inputs_by_name_are_exported_under_their_names(tmp_path, monkeypatch):
    golden = types.ModuleType("golden_texts")
    golden.golden = lambda: {"one": b"1", "nine": b"1 2 3 4 5 6 7 8 9"}
    golden.refused = lambda: {"words": b"1 x"}
    golden.is_told = lambda name, error: error == "not numbers"
    golden.why_not = lambda raw: tf.constant("")
    golden.WARM_UP, golden.DAMAGED, golden.LIMITS = ["one"], "not numbers", ""
    monkeypatch.setitem(sys.modules, "golden_texts", golden)
    monkeypatch.setattr(Words, "abilities", {"golden": "golden_texts"})
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="bool", name="padding_mask")
    features = keras.layers.Embedding(12, 8)(keras.ops.maximum(ids, 0))
    network = keras.Model({"token_ids": ids, "padding_mask": mask}, features)
    model = build_model(Backbone("texts", network, "none", 0, 1, layer_blocks(network)), 2)
    served = Served(model, {"label": OneOf(("a", "b"))}, kind=Words())
    with pytest.raises(UserError, match="onnx is for models that take one array .* token_ids, pad"):
        export_run(Run("unused"), served, str(tmp_path), ["onnx"], lambda: pytest.fail("read"))
    signatures = tf.saved_model.load(export_saved_model(served, str(tmp_path))).signatures
    takes = signatures["inputs"].structured_input_signature[1]
    assert {name: spec.dtype for name, spec in takes.items()} == {
        "token_ids": tf.int32,
        "padding_mask": tf.bool,
    }
    said = signatures["serving_default"](text=tf.constant(["1 2", "a b", "1 2 3 4"]))
    assert said["error"].numpy().tolist() == [b"", b"not numbers", b""]
    padded = {"token_ids": [[1, 2, -1, -1]], "padding_mask": [[True, True, False, False]]}
    alone = tf.nn.softmax(model({name: tf.constant(x) for name, x in padded.items()}))
    assert said["scores"].numpy()[0] == pytest.approx(np.sort(alone[0])[::-1], abs=1e-6)
