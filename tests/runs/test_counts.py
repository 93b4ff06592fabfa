"""Runs that answer by a network and by counted words together."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.config.load import parse_config
from ftkeras.evaluation import predict
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.inputs.text.terms import terms_in_model
from ftkeras.runs.finished import evaluate, load_run
from ftkeras.runs.train import train

# A network that reads two words and hardly trains, beside words that tell the class.
LITTLE = [
    "data.input.length=2",
    "phases=[{name: head, epochs: 1, learning_rate: 1.0e-5}]",
]


@pytest.fixture(scope="module")
def run(text_tree, tmp_path_factory):
    more = [*LITTLE, "export.saved_model=true", "report=true"]
    return train(parse_config(text_tree, more), str(tmp_path_factory.mktemp("runs") / "both"))


def test_a_model_answers_by_both_if_validation_says_so(run):
    evaluation, record = run.read_json("evaluation.json"), run.read_json("counts.json")
    assert record["added"] and record["val_loss"]["both"] < record["val_loss"]["network"]
    assert evaluation["accuracy"] == 1.0 == evaluation["counts"]["accuracy"]
    before = load_predictions(run, "test").logits
    assert evaluate(run)["accuracy"] == 1.0
    np.testing.assert_array_equal(load_predictions(run, "test").logits, before)


def test_it_predicts_and_serves_the_same(run):
    texts = ["the the the the the red apple pie", "blue", "words that no table has"]
    answers = load_run(run.folder).answer(texts)
    served = tf.saved_model.load(run.path("export", "1")).signatures["serving_default"]
    scores = served(text=tf.constant(texts))["scores"].numpy()
    own = np.array([[score for _, score in answer.best] for answer in answers])
    np.testing.assert_allclose(scores, own, atol=1e-5)
    assert [answer.best[0][0] for answer in answers[:2]] == ["a", "b"]


def test_refit_counts_the_validation_texts_too(run, text_tree, tmp_path):
    again = train(parse_config(text_tree, [*LITTLE, "training.refit=true"]), str(tmp_path / "run"))
    before, after = (terms_in_model(load_run(one.folder).model) for one in (run, again))
    assert set(after.vocabulary) - set(before.vocabulary)
    assert again.read_json("counts.json") == run.read_json("counts.json")
    assert again.read_json("evaluation.json")["accuracy"] == 1.0


def test_off_leaves_the_network_alone(text_tree, tmp_path, capsys):
    one = train(parse_config(text_tree, [*LITTLE, "head.counts=off"]), str(tmp_path / "run"))
    assert terms_in_model(load_run(one.folder).model) is None
    assert "counts    logistic regression" in capsys.readouterr().out
    assert one.read_json("evaluation.json")["accuracy"] < 1.0
    assert load_predictions(one, "counts-test").logits.shape == (12, 2)


def test_both_answer_from_a_stored_trunk_as_the_saved_model_does(text_tree, tmp_path, monkeypatch):
    ran, run_all = [], predict.predict_outputs

    def recorded(model, dataset, label):
        ran.append(label)
        return run_all(model, dataset, label)

    monkeypatch.setattr(predict, "predict_outputs", recorded)
    one = train(parse_config(text_tree, [*LITTLE, "trunk.mode=on"]), str(tmp_path / "run"))
    assert one.read_json("counts.json")["added"]
    assert ran == ["evaluate test"]  # which is stored only if there is a floor
    stored = load_predictions(one, "val").logits
    evaluate(one, "val")
    np.testing.assert_allclose(stored, load_predictions(one, "val").logits, atol=1e-5)
