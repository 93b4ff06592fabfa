"""Runs whose backbone has adapters: what they train, keep, store, resume, export and refuse."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones import load_backbone
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.keras_internals import variables_inside
from ftkeras.model.assemble import build_model
from ftkeras.model.lora import load_adapters
from ftkeras.phases.audit import fingerprint
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.runs.finished import evaluate, load_model
from ftkeras.runs.train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(tmp_path_factory, tiny_backbone) -> dict[str, Any]:
    """A config of a phase of the head and one of the adapters of all three convolutions."""
    random = np.random.default_rng(0)
    path, labels = tmp_path_factory.mktemp("arrays") / "small.npz", np.arange(64) % 2
    images = random.integers(0, 240, (64, 32, 32, 3)) + 3 * labels[:, None, None, None]
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return {
        "data": {
            "source": "arrays",
            "path": str(path),
            "batch_size": 8,
            "input": {"size": 32, "augmentation": "none"},
        },
        "backbone": {"name": tiny_backbone},
        "lora": {"rank": 2, "targets": "all"},
        "head": {"start": "random", "dropout": 0.0},
        "phases": {"strategy": "lora", "epochs": 3, "learning_rate": 1e-2},
        "export": {"saved_model": False},
        "report": False,
    }


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory) -> Run:
    """A finished run, exported."""
    out = str(tmp_path_factory.mktemp("runs") / "whole")
    return train(parse_config(tree, ["export.saved_model=true"]), out)


def weights(run: Run) -> list[np.ndarray]:
    return [np.asarray(value) for value in load_model(run).get_weights()]


def test_the_base_stays_the_model_is_merged_and_the_adapters_are_small(whole, tree, tiny_backbone):
    plan = whole.read_json("plan.json")
    assert [phase["train"] for phase in plan["phases"]] == [["head"], ["head", "lora"]]
    adapters = 2 * (9 * 3 + 16) + 2 * (9 * 16 + 32) + 2 * (9 * 32 + 64)
    assert plan["phases"][1]["parameters"] == adapters + 64 * 2 + 2
    audit = plan["audit"]["lora"]
    assert (audit["drifted"], audit["trained"], audit["frozen"]) == ([], 8, 3 + 4 * 3)
    model, base = load_model(whole), load_backbone(tiny_backbone, image_size=32).model
    assert not any("lora" in v.path for v in model.variables)
    moved = (
        model.layers[-4] if isinstance(model.layers[-4], keras.Model) else model.get_layer("tiny")
    )
    for number in (1, 2, 3):
        one, other = (x.get_layer(f"block_{number}").kernel.numpy() for x in (moved, base))
        delta = (one - other).reshape(-1, one.shape[-1])
        assert np.linalg.matrix_rank(delta, tol=1e-5) == 2
    with tf.io.gfile.GFile(whole.path("adapters.npz"), "rb") as file:
        assert file.size() < 12_000


def test_adapters_and_head_on_the_same_base_are_the_run(whole, tiny_backbone):
    backbone = load_backbone(tiny_backbone, image_size=32)
    model = build_model(backbone, 2)
    load_adapters(whole.path("adapters.npz"), backbone.model, model)
    images = np.random.default_rng(1).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(model(images), load_model(whole)(images), atol=1e-4)


def test_it_is_measured_and_exported_as_any_model(whole):
    measured, again = whole.read_json("evaluation.json"), evaluate(whole)
    assert again["nll"] == pytest.approx(measured["nll"], rel=1e-5)
    certificate = whole.read_json("certificate.json")["saved_model"]
    assert certificate["saved_model"]["max_difference"]["examples"] < 1e-4
    graph = tf.saved_model.load(certificate["path"]).signatures["serving_default"].graph
    products = [op for op in graph.get_operations() if "lora" in op.name]
    assert not products


def test_a_run_that_was_stopped_resumes_to_the_bit(tree, whole, tmp_path, train_until):
    config = parse_config(tree)
    train_until(14, config, tmp_path / "run")
    assert Run.open(str(tmp_path / "run")).state() == "interrupted"
    resumed = train(config, str(tmp_path / "run"))
    for expected, found in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_trunk_ends_before_the_first_adapter(tree, tmp_path):
    own = {**tree, "lora": {"rank": 2, "targets": ["block_3"]}, "trunk": {"mode": "on"}}
    run = train(parse_config(own), str(tmp_path / "run"))
    plan = run.read_json("plan.json")
    head, lora = plan["trunk"]
    assert head["stored"] and lora["stored"] and lora["share"] < head["share"]
    assert plan["audit"]["lora"]["trained"] == 4 and not plan["audit"]["lora"]["drifted"]


def test_two_replicas_do_what_one_device_does(tree, whole, two_replicas, tmp_path):
    two = train(parse_config(tree, ["training.strategy=mirrored"]), str(tmp_path / "two"))
    for expected, found in zip(weights(whole), weights(two), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    files = [np.load(run.path("adapters.npz")) for run in (whole, two)]
    assert len({json.loads(str(file["about"]))["base"] for file in files}) == 1


def test_a_run_starts_from_adapters_and_lora_then_full_moves_the_base(tree, whole, tmp_path):
    file = whole.path("adapters.npz")
    config = parse_config(tree, [f"lora={{adapters: {file}}}"])
    assert config == parse_config(config.model_dump(mode="json"))  # as a run's folder has it
    assembled = assemble(config)
    assert assembled.adapters is not None and assembled.adapters.rank == 2
    assert any("adapters of rank 2 (alpha 16) in 3 layers" in note for note in assembled.notes)
    values = np.load(file)["b 0"]
    assert values.any()
    lora = [x.variable for x in variables_inside(assembled.model) if x.variable.name[-2:] == "_b"]
    assert fingerprint(lora[0]) == fingerprint(keras.Variable(values))
    full = ["phases.strategy=lora_then_full", f"lora={{adapters: {file}}}"]
    run = train(parse_config(tree, full), str(tmp_path / "full"))
    audit = run.read_json("plan.json")["audit"]
    assert not audit["lora"]["drifted"] and audit["full"]["trained"] == 8 + 3
    assert not tf.io.gfile.exists(run.path("adapters.npz"))  # the base is another one now


def test_what_cannot_be_is_refused(tree, whole, text_tree, tmp_path):
    def refused(overrides: list[str], message: str, of: dict[str, Any] = tree) -> None:
        with pytest.raises(UserError, match=message):
            assemble(parse_config(of, overrides))

    refused(["lora.targets=attention"], "'attention' matches nothing. .* 3 layers of tiny can")
    refused(["lora=null"], "selector 'lora' selects nothing: the model has no adapters")
    other = [f"lora={{adapters: {whole.path('adapters.npz')}}}", "backbone.weights=none"]
    refused(other, "belongs to another base")
    adapted = ["backbone={name: char_lstm, adapt: {epochs: 1}}", "lora={}"]
    refused(adapted, "backbone.adapt trains the weights", text_tree)
    refused(["lora={rank: 0}"], "lora.rank")
    wise = {**tree, "task": "robust_weights", "robust_weights": {"method": "wise_ft"}}
    refused([], "robust_weights averages whole weights", wise)


def test_an_embedding_of_a_backbone_for_texts(text_tree):
    tree = {**text_tree, "backbone": {"name": "char_lstm"}, "lora": {"rank": 2}}
    assembled = assemble(parse_config({**tree, "phases": {"strategy": "lora", "epochs": 2}}))
    assert assembled.adapters is not None and len(assembled.adapters.layers) == 1
    paths = [weight.path for weight in assembled.plan.phases[1].trained]
    table = "char_lstm/embedding/lora_embeddings_"
    assert paths == [f"{table}a", f"{table}b", "logits/kernel", "logits/bias"]


def test_a_config_has_adapters_in_its_own_section(tree):
    config = parse_config(tree, ["lora={targets: [attention, 're:conv'], alpha: 4}"])
    assert isinstance(config, Config) and config.lora is not None
    assert (config.lora.rank, config.lora.alpha) == (8, 4.0)
