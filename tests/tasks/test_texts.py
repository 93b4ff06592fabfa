"""Every task on texts: it works, or a line says before training why it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.config.load import parse_config
from ftkeras.data.paired import PairedFeed
from ftkeras.errors import UserError
from ftkeras.inputs.text.tokens import tokens_in
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.assemble import assemble
from ftkeras.runs.finished import load_model, robustness
from ftkeras.runs.train import train
from ftkeras.tasks.incremental.extend import extend
from ftkeras.tasks.robust_weights.task import soup_config


def trained(tree: dict[str, Any], folder: Path, *overrides: str) -> Run:
    return train(parse_config(tree, list(overrides)), str(folder))


@pytest.fixture(scope="module")
def runs(text_tree, tmp_path_factory) -> list[Run]:
    """Two runs of the same data that differ by their seed."""
    folder = tmp_path_factory.mktemp("runs")
    tree = {**text_tree, "data": {**text_tree["data"], "split_seed": 0}, "report": True}
    tree["head"] = {**text_tree.get("head", {}), "counts": "off"}
    return [trained(tree, folder / str(seed), f"seed={seed}") for seed in (1, 2)]


@pytest.mark.slow
def test_few_shot_reads_with_the_vocabulary_of_its_features(text_tree, tmp_path):
    section = {"shots": 3, "draws": 2, "methods": ["nearest_mean", "logistic"], "folds": 2}
    tree = {**text_tree, "task": "few_shot", "few_shot": section}
    run = trained(tree, tmp_path / "run")
    results, model = run.read_json("task.json"), load_model(run)
    whole = build.backbone(parse_config(tree), build.data(parse_config(tree)))
    # A few texts have fewer words than all: features of all would be numbered otherwise.
    assert len(tokens_in(model).vocabulary) < len(tokens_in(whole.model).vocabulary)
    first = results["methods"][results["choice"]]["accuracies"][0]
    assert run.read_json("evaluation.json")["accuracy"] == pytest.approx(first)
    assert results["channels"] == 8 + 16  # the embedding, and both directions


@pytest.mark.slow
def test_few_shot_trains_its_phases_on_texts(text_tree, tmp_path):
    section = {"shots": 2, "draws": 1, "methods": ["phases"], "folds": 2}
    run = trained({**text_tree, "task": "few_shot", "few_shot": section}, tmp_path / "run")
    first = run.read_json("task.json")["methods"]["phases"]["accuracies"][0]
    assert run.read_json("evaluation.json")["accuracy"] == pytest.approx(first)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("few_shot.stages=1", "few_shot.stages: bilstm gives a sequence, which has no resolutions"),
        ("backbone.adapt={}", "backbone.adapt: few_shot compares many models"),
    ],
)
def test_what_few_shot_cannot_do_with_texts(text_tree, override, message):
    with pytest.raises(UserError, match=message):
        assemble(parse_config({**text_tree, "task": "few_shot"}, ["few_shot.shots=2", override]))


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "gradnorm"])
def test_texts_have_several_outputs(text_tree, tmp_path, weighting):
    outputs = {"label": {}, "second": {}, "size": {"kind": "number"}}
    tree = {**text_tree, "outputs": outputs, "task": "multi_task"}
    run = trained(tree, tmp_path / "run", f"multi_task.weighting={weighting}")
    heads = run.read_json("evaluation.json")["heads"]
    assert set(heads) == set(outputs)
    assert heads["label"]["accuracy"] > 0.5  # a word tells it
    assert np.isfinite(heads["size"]["mae"])


def domains(tree: dict[str, Any], method: str) -> dict[str, Any]:
    target = {name: tree["data"][name] for name in ("source", "path", "split")}
    section = {"method": method, "target": {**target, "path": tree["data"]["path"]}}
    return {**tree, "task": "domain_adaptation", "domain_adaptation": section}


def test_texts_of_two_domains_stand_in_turns_at_one_length(text_tree):
    config = parse_config(domains(text_tree, "coral"))
    made = assemble(config)
    assert isinstance(made.feed, PairedFeed)
    lengths = set()
    for inputs, labels, weights in made.feed.train():
        assert inputs.shape[0] == 2 * config.data.batch_size and inputs.dtype == tf.int32
        np.testing.assert_array_equal(labels.numpy().sum(axis=1) > 0, [True, False] * 8)
        np.testing.assert_array_equal(weights, [2.0, 0.0] * 8)
        real = inputs.numpy() > 0
        assert real[:, 0].all() and (np.diff(real.astype(int), axis=1) <= 0).all()  # then padding
        lengths.add(inputs.shape[1])
    assert lengths <= set(made.feed.input.sizes)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "coral", "dann", "pseudo_labels"])
def test_texts_of_one_domain_help_in_another(text_tree, tmp_path, method):
    run = trained(domains(text_tree, method), tmp_path / "run")
    evaluation = run.read_json("evaluation.json")
    assert 0 <= evaluation["target_accuracy"] <= 1
    assert run.read_json("task.json")["target"]["examples"] == 12


def test_adabn_needs_batch_normalisation(text_tree):
    tree = domains(text_tree, "adabn")
    tree["phases"] = [{**phase, "batch_norm": "train"} for phase in tree["phases"]]
    with pytest.raises(UserError, match="adabn is about batch normalisation, and bilstm has none"):
        assemble(parse_config(tree))


@pytest.mark.slow
def test_robust_weights_of_texts_are_chosen_by_clean_accuracy(text_tree, tmp_path):
    tree = {**text_tree, "task": "robust_weights", "report": True}
    run = trained(tree, tmp_path / "run", "robust_weights.alphas=[0.0,0.5,1.0]")
    results = run.read_json("task.json")
    assert results["corruptions"] == [] and len(results["sweep"]) == 3
    for row in results["sweep"]:
        assert row["score"] == row["clean"] and row["corrupted"] is None
    page = run.read_text("report.html")
    assert "chosen by the clean accuracy on validation texts" in page
    assert "orrupted" not in page


def test_named_corruptions_are_refused_for_texts(text_tree):
    config = parse_config(
        {**text_tree, "task": "robust_weights"}, ["robust_weights.corruptions=[fog]"]
    )
    with pytest.raises(UserError, match="robust_weights.corruptions: texts have no 'corruptions'"):
        assemble(config)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["uniform_soup", "greedy_soup"])
def test_text_runs_make_a_soup(runs, tmp_path, method):
    folders = [run.folder for run in runs]
    soup = train(soup_config(runs[0].config, folders, method, "mean"), str(tmp_path / "soup"))
    shares = soup.read_json("task.json")["shares"]
    weights = [[w.numpy() for w in load_model(run).weights] for run in (*runs, soup)]
    for first, second, mean in zip(*weights, strict=True):
        np.testing.assert_allclose(mean, shares[0] * first + shares[1] * second, rtol=1e-5)


@pytest.mark.slow
def test_a_soup_refuses_a_run_with_another_vocabulary(runs, tmp_path):
    other = Run.open(str(shutil.copytree(runs[1].folder, tmp_path / "other")))
    other.write_json("data.json", {**other.read_json("data.json"), "vocabulary_hash": "another"})
    config = soup_config(runs[0].config, [runs[0].folder, other.folder], "uniform_soup", "mean")
    with pytest.raises(UserError, match="reads texts differently: its vocabulary_hash is anoth"):
        train(config, str(tmp_path / "soup"))
    assert not (tmp_path / "soup").exists()


@pytest.mark.slow
def test_what_texts_have_not_is_named(runs, text_tree, tmp_path):
    with pytest.raises(
        UserError, match="texts have no 'levels', the values from 0 to 255 in which"
    ):
        extend(
            runs[0], {"source": "manifest", "path": text_tree["data"]["path"]}, str(tmp_path / "x")
        )
    assert not (tmp_path / "x" / "model.keras").exists()
    with pytest.raises(UserError, match="robustness: texts have no 'corruptions'"):
        robustness(runs[0], 4)
