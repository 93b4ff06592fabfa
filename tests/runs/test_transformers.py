"""Runs on Transformers of keras-hub, from folders in its own form and in Hugging Face's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.cli import main as cli
from ftkeras.config.load import parse_config
from ftkeras.errors import UserError
from ftkeras.inputs.base import Shown
from ftkeras.inputs.text.cards import draw
from ftkeras.outputs.ending import ending_of
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.runs.finished import evaluate, export, load_model, write_report
from ftkeras.runs.task import task_of
from ftkeras.runs.train import train
from ftkeras.trunk.split import split_or_reason

pytestmark = pytest.mark.slow

PHASES = [
    {"name": "head", "train": ["head"], "epochs": 1, "learning_rate": 1e-2},
    {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2, "learning_rate": 1e-2},
]


def tree_of(text_tree: dict[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    """The config of `text_tree`, on a Transformer."""
    data = {**text_tree["data"], "input": {"kind": "text", "length": 24}}
    own = {"data": data, "backbone": {"name": str(folder)}, "phases": PHASES}
    return {**text_tree, **own, **more}


@pytest.fixture(scope="module")
def run(text_tree, hugging_face_folder, tmp_path_factory) -> Run:
    """A finished run on Hugging Face's form; the folder that it was trained from is gone."""
    gone = shutil.copytree(hugging_face_folder, tmp_path_factory.mktemp("gone") / "bert")
    tree = tree_of(text_tree, gone, trunk={"mode": "on"})
    made = train(parse_config(tree), str(tmp_path_factory.mktemp("runs") / "bert"))
    shutil.rmtree(gone)
    return made


def test_each_phase_trains_from_a_store_and_the_task_is_learned(run):
    assert [row["stored"] for row in run.read_json("plan.json")["trunk"]] == [True, True]
    facts = run.read_json("data.json")
    assert facts["tokens"] == "word pieces" and facts["length"] == 24
    assert evaluate(run)["accuracy"] >= 0.75


def test_a_run_is_exported_with_its_tokenizer_without_the_folder(run, tmp_path):
    folder = export(run, str(tmp_path))["saved_model"]
    proof = json.loads(Path(folder, "assets.extra", "certificate.json").read_text())
    assert "tensorflow_text" in proof["saved_model"]["compared_with"]
    assert proof["needs"] == ["tensorflow_text"]
    assert max(proof["saved_model"]["max_difference"].values()) < 1e-4
    assert "TensorFlow Text" in (tmp_path / "serving" / "serve.sh").read_text()


def test_a_report_says_what_each_word_did(run):
    write_report([run])
    model = load_model(run)  # it makes no mistake that its own report could show
    kind, shown = (
        task_of(run.config).input(run.config, model),
        Shown(tf.constant("a red café"), 0, False),
    )
    [card] = draw(kind, [shown], model, ending_of(model).logits, exclusive=True)
    did = {p for p, w in zip(card["pieces"], card["weights"], strict=True) if w is not None}
    assert did == {"a", "red", "café"}
    [row] = ftkeras.load_run(run.folder).answer(["the red café isn't far"])
    assert not row.error


def test_a_run_that_was_stopped_resumes_to_the_bit(
    run, text_tree, hugging_face_folder, tmp_path, train_until
):
    config = parse_config(tree_of(text_tree, hugging_face_folder, trunk={"mode": "on"}))
    train_until(8, config, tmp_path / "run")
    resumed = train(config, str(tmp_path / "run"))
    for whole, found in zip(load_model(run).weights, load_model(resumed).weights, strict=True):
        np.testing.assert_array_equal(found.numpy(), whole.numpy())


def test_the_trunk_gives_the_same_answers_at_the_real_length(text_tree, hugging_face_folder):
    made = assemble(parse_config(tree_of(text_tree, hugging_face_folder, trunk={"mode": "off"})))
    model, (inputs, *_) = made.model, next(iter(made.feed.plain("val")))
    made.unfreeze.set_flags(1)
    assert isinstance(split_or_reason(model, length=24), str)  # dropout, unless it is silenced
    split = split_or_reason(model, silence=True, length=24)
    assert split.silenced == ("embeddings_dropout", "transformer_layer_0")
    assert {spec.shape: (spec.varies, spec.tells) for spec in split.frontier} == {
        (24,): (True, True),
        (24, 32): (True, False),
    }
    assert inputs["token_ids"].shape[1] < 24  # so what is stored is cut to what batches need
    np.testing.assert_allclose(split.tail(split.trunk(inputs)), model(inputs), atol=1e-6)


SOME = {"epochs": 1, "learning_rate": 1e-3}
TASKS = {
    "multi_task": {"outputs": {"label": "classes", "second": "classes", "size": "number"}},
    "few_shot": {"few_shot": {"shots": 3, "draws": 2, "methods": ["logistic"]}},
    "robust_weights": {"robust_weights": {"select": "clean", "alphas": [0.0, 1.0]}},
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_trains_a_transformer(text_tree, keras_hub_folder, tmp_path, task):
    """From keras-hub's own form, whose pooler makes the features."""
    tree = tree_of(text_tree, keras_hub_folder, task=task, head={"pooling": "pooler"})
    tree = {**tree, "phases": [{**phase, **SOME} for phase in PHASES], **TASKS[task]}
    if task == "few_shot":
        tree["data"] = {**tree["data"], "split": {"test": 0.2}}
        del tree["head"]
    made = train(parse_config(tree), str(tmp_path / "run"))
    assert made.state() == "finished" and made.read_json("evaluation.json")["examples"] == 12
    trained = [] if task == "few_shot" else ["head", "top"]
    assert [row["phase"] for row in made.metrics()] == trained


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("incremental", "texts have no 'levels'"),
        ("domain_adaptation", "texts cannot be paired"),
    ],
)
def test_a_task_that_takes_no_transformer_says_so(text_tree, keras_hub_folder, run, task, reason):
    tree = tree_of(text_tree, keras_hub_folder, task=task)
    target = {key: tree["data"][key] for key in ("source", "path", "split", "input")}
    own = {"incremental": {"base": run.folder}, "domain_adaptation": {"target": target}}
    tree |= {task: own[task]} if task in own else {}
    with pytest.raises(UserError, match=f"task {task}: {reason}"):
        assemble(parse_config(tree))


def test_init_writes_a_config_for_a_folder(text_tree, keras_hub_folder, tmp_path, capsys):
    path, data = tmp_path / "my.yaml", text_tree["data"]["path"]
    flags = [f"--data={data}", f"--backbone={keras_hub_folder}"]
    assert cli.main(["init", str(path), *flags]) == 0
    written = path.read_text()
    assert "kind: text" in written and "blocks[-2:]" in written and "recurrent:" in written
    assert cli.main(["plan", f"--config={path}"]) == 0
    assert "its own weights" in capsys.readouterr().out
